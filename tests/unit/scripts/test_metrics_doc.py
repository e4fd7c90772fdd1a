from __future__ import annotations

from prometheus_client.metrics import MetricWrapperBase

from fanout.runtime import metrics
from scripts import metrics_doc


def test_the_committed_page_is_what_the_script_makes() -> None:
    assert metrics_doc.PAGE.read_text(encoding="utf-8") == metrics_doc.page(), "run python -m scripts.metrics_doc"


def test_every_metric_is_documented_with_unit_and_meaning() -> None:
    page = metrics_doc.PAGE.read_text(encoding="utf-8")
    catalogue = metrics_doc.catalogue()
    constants = [
        name for name, value in vars(metrics).items() if name.isupper() and isinstance(value, MetricWrapperBase)
    ]
    assert len(catalogue) == len(constants)
    for metric in catalogue:
        assert f"| `{metric.name}` |" in page
        assert metric.meaning
        assert metric.unit


def test_names_follow_the_grammar_of_the_house() -> None:
    for metric in metrics_doc.catalogue():
        assert metric.name.startswith("fanout_")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.kind != "histogram" or metric.name.endswith(("_seconds", "_slots"))


def test_no_label_could_be_a_room_a_user_or_a_session() -> None:
    labels = {label for metric in metrics_doc.catalogue() for label in metric.labels}
    assert labels == metrics_doc.LABELS.keys()
    assert not labels & {"room", "user", "session", "app", "client", "channel"}
