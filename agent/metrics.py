"""The numbers of the agent in Prometheus form: one registry per agent, prefix `vilamp_`, base units.

Labels are only `camera`, `rule`, `stage` and `reason`; never question text, ids or URLs. What the parts count
themselves is read when scraped (`watch`), what happens in the agent is counted as it happens.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LAG_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

Reading = tuple[dict[str, str], float]  # labels and value


class Reader:
    """One metric whose values are read from the parts at the moment of a scrape."""

    def __init__(
        self, name: str, help_text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Reading]]
    ) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        self.read = read

    def family(self) -> Metric:
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(self.name.removesuffix("_total"), self.help_text, labels=self.labels)
        for labels, value in self.read():
            family.add_metric([labels[label] for label in self.labels], value)
        return family


class _Readers(Collector):
    def __init__(self) -> None:
        self.readers: list[Reader] = []

    def collect(self) -> Iterable[Metric]:
        for reader in self.readers:
            yield reader.family()


class Metrics:
    """Everything `/metrics` shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._readers = _Readers()
        self.frames_lost = Counter(
            "vilamp_frames_lost_total",
            "Kept frames that could not be remembered.",
            ["camera", "reason"],
            registry=self.registry,
        )
        self.frames_encoded = Counter(
            "vilamp_frames_encoded_total", "Frames encoded and attached.", ["camera"], registry=self.registry
        )
        self.encode_failures = Counter(
            "vilamp_encode_failures_total",
            "Frames or batches that the encoder could not take.",
            ["reason"],
            registry=self.registry,
        )
        self.questions = Counter(
            "vilamp_questions_total", "Questions by how they ended.", ["reason"], registry=self.registry
        )
        self.alerts = Counter("vilamp_alerts_total", "Alerts that fired.", ["rule", "camera"], registry=self.registry)
        self.alerts_suppressed = Counter(
            "vilamp_alerts_suppressed_total", "Alerts that did not fire.", ["rule", "reason"], registry=self.registry
        )
        self.judgements = Counter(
            "vilamp_judgements_total", "Verdicts of the judge.", ["rule", "reason"], registry=self.registry
        )
        self.stage_seconds = Histogram(
            "vilamp_stage_seconds",
            "Time per stage of a question or of encoding a batch.",
            ["stage"],
            buckets=_STAGE_BUCKETS_S,
            registry=self.registry,
        )
        self.event_loop_lag = Histogram(
            "vilamp_event_loop_lag_seconds",
            "How much later than asked the event loop wakes, ten times a second.",
            buckets=_LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(self._readers)

    def watch(self, readers: Iterable[Reader]) -> None:
        """Add metrics that are read at scrape time."""
        self._readers.readers.extend(readers)

    def text(self) -> bytes:
        """The exposition text, all metrics."""
        return generate_latest(self.registry)
