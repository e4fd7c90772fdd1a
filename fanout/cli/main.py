"""The command line. Commands import what they need when they run, so that ``fanout --help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fanout.core.errors import ConfigError, FanoutError
from fanout.core.limits import CONNECT_BURST, CONNECTS_PER_S, DRAIN_GATEWAY_S

app = typer.Typer(
    name="fanout",
    help="Delivery backend for rooms that are too large: one message in, a million deliveries out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
topics_app = typer.Typer(help="Topics of the log.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
policy_app = typer.Typer(help="How the rooms of a namespace are thinned.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")

LogOption = Annotated[str, typer.Option("--log", envvar="FANOUT_LOG", help="memory | kafka://host:port[,host:port]")]
StoreOption = Annotated[
    str, typer.Option("--store", envvar="FANOUT_STORE", help="memory | redis://host:port | redis+cluster://host:port")
]
UrlOption = Annotated[str, typer.Option("--url", envvar="FANOUT_URL", help="A running engine")]
KeyOption = Annotated[str, typer.Option("--key", envvar="FANOUT_API_KEY", help="API key (none with --insecure)")]
DEFAULT_URL = "http://127.0.0.1:8000"


@app.command()
def serve(
    roles: Annotated[
        str, typer.Option(envvar="FANOUT_ROLES", help="Of sender,worker,gateway")
    ] = "sender,worker,gateway",
    log: LogOption = "memory",
    store: StoreOption = "memory",
    host: Annotated[str, typer.Option(envvar="FANOUT_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="FANOUT_PORT", help="0: any free one")] = 8000,
    processes: Annotated[int, typer.Option(envvar="FANOUT_PROCESSES", help="One per core")] = 1,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", envvar="FANOUT_INSECURE", help="Loopback only: everybody in, app dev, open: rooms"),
    ] = False,
    prefix: Annotated[str, typer.Option(envvar="FANOUT_PREFIX", help="Of topics and store keys")] = "fanout",
    address: Annotated[str, typer.Option(envvar="FANOUT_ADDRESS", help="How clients reach this process")] = "",
    origins: Annotated[str, typer.Option(envvar="FANOUT_ORIGINS", help="Allowed browser origins, by comma")] = "",
    deflate: Annotated[
        bool,
        typer.Option("--deflate/--no-deflate", envvar="FANOUT_DEFLATE", help="Compress for clients that offer it"),
    ] = True,
    connects_per_s: Annotated[
        float, typer.Option(envvar="FANOUT_CONNECTS_PER_S", help="WebSockets that a process lets in a second")
    ] = CONNECTS_PER_S,
    connect_burst: Annotated[int, typer.Option(envvar="FANOUT_CONNECT_BURST", help="... and at once")] = CONNECT_BURST,
    drain_s: Annotated[
        float, typer.Option("--drain-s", envvar="FANOUT_DRAIN_S", help="Seconds to send all sessions away")
    ] = DRAIN_GATEWAY_S,
    memory_mb: Annotated[
        int, typer.Option(envvar="FANOUT_MEMORY_MB", help="Of a process; 0: its share of the container's")
    ] = 0,
) -> None:
    """Run the engine: all roles in one process in memory, or chosen roles on Kafka and Redis."""
    from fanout.runtime.logs import configure_logs
    from fanout.runtime.process import share_metrics
    from fanout.runtime.settings import ServeSettings

    settings = ServeSettings(
        roles=tuple(role.strip() for role in roles.split(",") if role.strip()),
        log=log,
        store=store,
        host=host,
        port=port,
        processes=processes,
        insecure=insecure,
        prefix=prefix,
        address=address,
        origins=tuple(origin.strip() for origin in origins.split(",") if origin.strip()),
        deflate=deflate,
        connects_per_s=connects_per_s,
        connect_burst=connect_burst,
        drain_s=drain_s,
        memory_mb=memory_mb,
    ).check()
    if processes > 1:
        share_metrics()
    configure_logs()
    from fanout.cli.serve import serve as run

    raise typer.Exit(run(settings))


@app.command()
def publish(
    room: str,
    text: Annotated[str, typer.Argument(help='JSON, or a text that becomes {"text": …}')],
    priority: Annotated[str, typer.Option(help="system, high, normal or low")] = "normal",
    sender: Annotated[str, typer.Option(help="User id shown as the sender")] = "",
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Publish one message and print what the log answered."""
    from fanout.cli.tools import publish_one

    raise typer.Exit(publish_one(url, key, room, text, priority, sender))


@app.command()
def watch(
    room: str,
    token: Annotated[str, typer.Option(envvar="FANOUT_TOKEN", help="Connection token (none with --insecure)")] = "",
    count: Annotated[int, typer.Option(help="End after so many publications; 0: never")] = 0,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Print the publications of a room, one JSON object a line, across reconnects."""
    from fanout.cli.tools import watch_room

    raise typer.Exit(watch_room(url, token, room, count))


@app.command()
def ledger(
    room: Annotated[str, typer.Argument(help="Left out: all rooms of the app")] = "",
    since: Annotated[str, typer.Option(help="1m to 60m, or 1h; left out: since the room's first message")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The engine's answer as it is")] = False,
    url: UrlOption = DEFAULT_URL,
    key: KeyOption = "",
) -> None:
    """Draw what became of a room's (or an app's) messages and deliveries; exit 1 unless it adds up."""
    from fanout.cli.ledger import show_ledger

    raise typer.Exit(show_ledger(url, key, room, since, as_json))


@app.command()
def token(
    user: str,
    app_id: Annotated[str, typer.Option("--app")] = "default",
    ttl_s: Annotated[int, typer.Option("--ttl", help="Seconds the token is valid")] = 3600,
    rooms: Annotated[list[str] | None, typer.Option("--room", help="Allowed room pattern, repeatable")] = None,
) -> None:
    """Sign a connection token with FANOUT_TOKEN_SECRET, for trials."""
    from fanout.cli.tools import sign_token

    raise typer.Exit(sign_token(app_id, user, ttl_s, rooms or []))


@topics_app.command("apply")
def topics_apply(
    log: LogOption = "kafka://127.0.0.1:9092",
    prefix: Annotated[str, typer.Option(envvar="FANOUT_PREFIX")] = "fanout",
    replication: Annotated[int, typer.Option(help="Replicas of each partition")] = 1,
) -> None:
    """Create the topics, or say how existing ones differ (partition counts are fixed at creation)."""
    from fanout.cli.tools import apply_all_topics

    raise typer.Exit(apply_all_topics(log, prefix, replication))


@policy_app.command("show")
def policy_show(url: UrlOption = DEFAULT_URL, key: KeyOption = "") -> None:
    """Print the policies of the app, with all their fields."""
    from fanout.cli.policy import show

    raise typer.Exit(show(url, key))


@policy_app.command("check")
def policy_check(file: Path) -> None:
    """Check a policy in a JSON file, without an engine, and print it with all its fields."""
    from fanout.cli.policy import check

    raise typer.Exit(check(file))


@policy_app.command("set")
def policy_set(namespace: str, file: Path, url: UrlOption = DEFAULT_URL, key: KeyOption = "") -> None:
    """Set the policy of a namespace; it acts from its place in the log on."""
    from fanout.cli.policy import set_policy

    raise typer.Exit(set_policy(url, key, namespace, file))


@policy_app.command("reset")
def policy_reset(namespace: str, url: UrlOption = DEFAULT_URL, key: KeyOption = "") -> None:
    """Go back to the default policy of a namespace."""
    from fanout.cli.policy import reset

    raise typer.Exit(reset(url, key, namespace))


@app.command()
def shadow(
    policy: Annotated[Path, typer.Option(help="JSON or TOML; what it leaves out has its default")],
    room: Annotated[str, typer.Option(help="Whose messages are decided again")],
    since: Annotated[str, typer.Option(help="90m, 6h, 1d; at most 7d")] = "1d",
    app_id: Annotated[str, typer.Option("--app")] = "default",
    log: LogOption = "kafka://127.0.0.1:9092",
    store: Annotated[str, typer.Option(envvar="FANOUT_STORE", help="Says which policy the app had set before")] = "",
    prefix: Annotated[str, typer.Option(envvar="FANOUT_PREFIX")] = "fanout",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table and a plot")] = False,
    svg: Annotated[Path | None, typer.Option(help="Write the plot to this file as well")] = None,
) -> None:
    """Tell what another policy would have kept and dropped of a room's messages; nothing is changed anywhere."""
    from fanout.cli.shadow import ShadowSettings, run_shadow
    from fanout.runtime.logs import configure_logs

    configure_logs()
    raise typer.Exit(run_shadow(ShadowSettings(policy, room, since, app_id, log, store, prefix, as_json, svg)))


@app.command()
def doctor(log: LogOption = "memory", store: StoreOption = "memory", prefix: str = "fanout") -> None:
    """Check Kafka, Redis, clocks, file descriptors and kernel settings; each finding comes with its remedy."""
    from fanout.cli.doctor import examine

    raise typer.Exit(examine(log, store, prefix))


@app.command()
def demo(
    viewers: Annotated[int, typer.Option(help="WebSocket viewers in the room")] = 1000,
    seconds: Annotated[float, typer.Option(help="Two busy minutes are compressed into so many seconds")] = 40.0,
    trace: Annotated[Path | None, typer.Option(help="Replay a CSV (t_ms,sender,bytes)")] = None,
    speed: Annotated[float, typer.Option(help="With --trace: times faster than recorded; 0: fit into --seconds")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the fitted profile")] = 1,
    log: LogOption = "memory",
    store: StoreOption = "memory",
) -> None:
    """Replay a real livestream's arrivals into a room of live viewers; exit 1 unless the ledger adds up."""
    from fanout.cli.demo import DemoSettings, run_demo

    raise typer.Exit(run_demo(DemoSettings(viewers, seconds, trace, speed, seed, log, store)))


def main() -> None:
    """Entry point: mistakes in flags and settings are one line and exit status 2."""
    try:
        app()
    except ConfigError as error:
        sys.stderr.write(f"fanout: {error}\n")
        sys.exit(2)
    except FanoutError as error:
        sys.stderr.write(f"fanout: {error}\n")
        sys.exit(1)
