"""The agent's Prometheus metrics: one registry per agent, names with the prefix `vilamp_`, base units.

The only labels are `camera`, `rule`, `stage` and `reason`; never question text, ids or URLs. Some metrics are updated when
something happens. The others are read, at each scrape, from parts of the agent that count for themselves (`watch`).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memory.store import MemoryStore

_LAG_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

_STORED = {
    "vilamp_memory_frames": ("Frames remembered.", "frames"),
    "vilamp_memory_encoded_frames": ("Frames remembered and encoded.", "encoded"),
    "vilamp_memory_bytes": ("Bytes on disk.", "bytes"),
    "vilamp_memory_oldest_time_seconds": ("Time of the oldest frame, unix.", "oldest"),
    "vilamp_memory_newest_time_seconds": ("Time of the newest frame, unix.", "newest"),
}
_STATUS = {
    "vilamp_memory_full": ("1 while the disk is full.", "full"),
    "vilamp_frames_evicted_total": ("Frames deleted by the limits.", "evicted"),
    "vilamp_frames_erased_total": ("Frames erased on request.", "erased"),
    "vilamp_frames_damaged_total": ("Frames dropped as damaged.", "frames_damaged"),
}

Reading = tuple[dict[str, str], float]  # labels and value


class Reader:
    """A metric whose values are read at each scrape. It is a counter if its name ends in `_total`, otherwise a gauge."""

    def __init__(
        self, name: str, help_text: str, labels: tuple[str, ...], read: Callable[[], Iterable[Reading]]
    ) -> None:
        self.name = name
        self.help_text = help_text
        self.labels = labels
        self.read = read

    def family(self) -> Metric:
        """Return the metric with its current values."""
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(self.name.removesuffix("_total"), self.help_text, labels=self.labels)
        for labels, value in self.read():
            family.add_metric([labels[label] for label in self.labels], value)
        return family


def value_reader(name: str, help_text: str, read: Callable[[], float]) -> Reader:
    """Return the reader of a metric that has one value and no labels."""
    return Reader(name, help_text, (), lambda: [({}, float(read()))])


def memory_readers(store: MemoryStore) -> Iterator[Reader]:
    """Yield the readers of the metrics about the memory `store`, some for each camera and some for all together."""

    def stored(field: str) -> Iterator[Reading]:
        for camera in store.cameras():
            value = getattr(store.stats(camera), field)
            if value is not None:
                yield {"camera": camera}, float(value)

    def status(field: str) -> float:
        return float(getattr(store.status(), field))

    for name, (text, field) in _STORED.items():
        yield Reader(name, text, ("camera",), partial(stored, field))
    for name, (text, field) in _STATUS.items():
        yield value_reader(name, text, partial(status, field))


class _Readers(Collector):
    def __init__(self) -> None:
        self.readers: list[Reader] = []

    def collect(self) -> Iterable[Metric]:
        for reader in self.readers:
            yield reader.family()


class Metrics:
    """All metrics that `/metrics` returns."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._readers = _Readers()
        self.frames_lost = Counter(
            "vilamp_frames_lost_total",
            "Frames that could not be stored.",
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
            "Delay of the event loop, measured ten times a second.",
            buckets=_LAG_BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(self._readers)

    def watch(self, readers: Iterable[Reader]) -> None:
        """Add metrics whose values are read at each scrape."""
        self._readers.readers.extend(readers)

    def text(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        return generate_latest(self.registry)
