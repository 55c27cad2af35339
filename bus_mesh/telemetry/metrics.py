"""What a node counts: calls by how they ended and how long they took, and what else an operator asks about.

Counting is plain integers in lists, on the loop's thread only (0.3 µs a call). prometheus_client, several times dearer,
is met when somebody looks, through one collector. Labels are bounded: beyond a hard cap all count as `_OTHER`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bus_mesh.protocol.errors import Code

__all__ = ["BUCKETS", "EVENTS", "MAX_SERIES", "OTHER", "Child", "Counter", "Metrics", "Reading", "Series"]

BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper ends of the buckets, in seconds."""
MAX_SERIES: Final = 10_000
"""Combinations of service, method, caller and code that are told apart, on each side."""
MAX_VALUES: Final = 1_000
"""Values of one counter's label that are told apart."""
OTHER: Final = "_OTHER"
"""The label of all that is not told apart; no name looks like it."""

EVENTS: Final = {
    "retries": ("Retries spent, or refused by the budget.", "result"),
    "breaker_changes": ("Changes of circuits to instances.", "to"),
    "limited": ("Calls refused here: no place at the instance, or over a rate.", "why"),
    "astray": ("Calls not placed as policy says: no key, or nobody in their part of the split.", "why"),
    "faults": ("Calls delayed or refused on purpose.", "what"),
    "idempotency_keys": ("What became of calls with an idempotency key at instances of this node.", "result"),
    "mirrored": ("Copies of calls sent, or dropped because too many were under way.", "result"),
}
"""What gates count, each with a text and the name of its one label."""
Labels = tuple[str, str, str]
_CALLED: Final = ("service", "method")
_CALLING: Final = ("caller", "code")
_NAMES: Final = {int(code): code.name for code in Code}
_BOUNDS: Final = (*(str(bound) for bound in BUCKETS), "+Inf")
# A cell is one count for each bucket, one for what is above all, and the sum of the seconds.
_EMPTY: Final = (*(0 for _ in _BOUNDS), 0.0)


class Child:
    """The calls of one caller to one method: look it up once, keep it, and `record` each call's end."""

    __slots__ = ("_cells", "_series", "inflight", "labels", "retries")

    def __init__(self, series: "Series", labels: Labels) -> None:
        self._series = series
        self._cells: dict[int, list[float]] = {}
        self.labels = labels
        self.inflight = 0
        """Calls begun and not ended; whoever begins and ends them counts."""
        self.retries = 0
        """Tries beyond the first, of all calls."""

    def record(self, code: int, seconds: float) -> None:
        """Count a call that ended with a gRPC code after so many seconds."""
        cell = self._cells.get(code)
        if cell is None:
            cell = self._series._cell(self, code)
        cell[bisect_left(BUCKETS, seconds)] += 1
        cell[-1] += seconds

    def calls(self, code: int | None = None) -> int:
        """Return how many calls ended with the code, or ended at all."""
        cells = [self._cells.get(code, _EMPTY)] if code is not None else list(self._cells.values())
        return int(sum(sum(cell[:-1]) for cell in cells))

    def __repr__(self) -> str:
        service, method, caller = self.labels
        return f"Child({caller} to {service}/{method}: {self.calls()} calls, {self.inflight} in flight)"


class Series:
    """The calls of one side of a node, apart by service, method, caller and code, under a hard cap.

    Nothing is ever evicted: who comes late counts as `_OTHER`. Ask only for names that discovery or policy knows, and
    for OTHER where it knows none, or strangers take the room.
    """

    def __init__(self, cap: int = MAX_SERIES) -> None:
        self._cap = cap
        self._used = 0
        self._children: dict[Labels, Child] = {}
        self._other = Child(self, (OTHER, OTHER, OTHER))

    def child(self, service: str, method: str, caller: str) -> Child:
        """Return the child of these names, always the same one; the child of `_OTHER` once the cap is reached."""
        labels = (service, method, caller)
        found = self._children.get(labels)
        if found is not None:
            return found
        if len(self._children) >= self._cap or self._used >= self._cap:
            return self._other
        made = self._children[labels] = Child(self, labels)
        return made

    def _cell(self, child: Child, code: int) -> list[float]:
        known = code if code in _NAMES else int(Code.UNKNOWN)
        if child is not self._other and known not in child._cells:
            if self._used >= self._cap:
                child = self._other
            else:
                self._used += 1
        return child._cells.setdefault(known, list(_EMPTY))

    def cells(self) -> Iterator[tuple[Labels, str, list[float]]]:
        """Yield labels, code name and a copy of each cell. Safe on another thread than the one that records."""
        for child in [*self._children.values(), self._other]:
            for code, cell in list(child._cells.items()):
                yield child.labels, _NAMES[code], cell.copy()

    def inflight(self) -> dict[tuple[str, str], int]:
        """Return the calls in flight by (service, method), without the zeros of what never ran."""
        found: dict[tuple[str, str], int] = {}
        for child in [*self._children.values(), self._other]:
            if child.inflight or child._cells:
                service, method, _ = child.labels
                found[service, method] = found.get((service, method), 0) + child.inflight
        return found

    def retries(self) -> dict[Labels, int]:
        """Return the tries beyond the first of each child that has any."""
        return {child.labels: child.retries for child in [*self._children.values(), self._other] if child.retries}

    def __len__(self) -> int:
        return self._used

    def __repr__(self) -> str:
        return f"Series({self._used} of {self._cap})"


class Counter:
    """Counts events by one label; beyond the cap, and for nothing at all, by `_OTHER`."""

    __slots__ = ("_cap", "values")

    def __init__(self, cap: int = MAX_VALUES) -> None:
        self._cap = cap
        self.values: dict[str, int] = {}

    def add(self, value: str, count: int = 1) -> None:
        """Count `count` events under `value`."""
        try:
            self.values[value] += count
        except KeyError:
            if len(self.values) >= self._cap or not value:
                value = OTHER
            self.values[value] = self.values.get(value, 0) + count

    def __getitem__(self, value: str) -> int:
        return self.values.get(value, 0)

    def __repr__(self) -> str:
        return f"Counter({self.values})"


class Reading(NamedTuple):
    """A number that somebody else keeps, asked for when somebody looks."""

    name: str
    text: str
    read: Callable[[], float | Mapping[str, float]]
    kind: Literal["gauge", "counter"]
    label: str


class Metrics:
    """All that one node counts. Record on the loop's thread; `render` on any."""

    def __init__(self, version: str = "", cap: int = MAX_SERIES) -> None:
        self.client = Series(cap)
        """Calls of the apps of this node to others, as the apps saw them."""
        self.server = Series(cap)
        """Calls of others to the instances of this node."""
        self.envelope_failures = Counter()
        """Envelopes dropped or refused, by reason."""
        self.denied = Counter()
        """Calls denied, by rule."""
        self.attempts = Counter()
        """Tries of calls, by outcome."""
        self.sheds = {"full": Counter(), "unwell": Counter()}
        """Times that an instance of this node left its queue group, by why, then by service."""
        self.waited = Series(cap)
        """How long calls waited for a place at an instance of this node."""
        self.events: dict[str, Counter] = {what: Counter() for what in EVENTS}
        self.registry = CollectorRegistry(auto_describe=False)
        self._readings: list[Reading] = []
        self.registry.register(_Collector(self, self._readings, version))
        ProcessCollector(registry=self.registry)

    def count(self, what: str, which: str) -> None:
        """Count one of `EVENTS` under a value of its label."""
        self.events[what].add(which)

    def gauge(
        self,
        name: str,
        text: str,
        read: Callable[[], float | Mapping[str, float]],
        *,
        kind: Literal["gauge", "counter"] = "gauge",
        label: str = "",
    ) -> None:
        """Show `busmesh_<name>` as what `read()` returns: a number, or with `label` a mapping of its values to numbers.

        `read` runs on the HTTP thread, so it may only look. If it raises, the metric is left out of that answer.
        """
        if any(known.name == name for known in self._readings):
            raise ValueError(f"the metric busmesh_{name} is there already: give this one another name")
        self._readings.append(Reading(name, text, read, kind, label))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Collector(Collector):
    def __init__(self, metrics: Metrics, readings: list[Reading], version: str) -> None:
        self._metrics, self._readings, self._version = metrics, readings, version

    def collect(self) -> Iterator[Metric]:
        metrics = self._metrics
        text = "Seconds from an app's call to its outcome."
        yield _histogram("client_call_duration_seconds", text, metrics.client, _CALLED + _CALLING)
        text = "Seconds that a call took at this node, on its way to an instance."
        yield _histogram("server_call_duration_seconds", text, metrics.server, _CALLED + _CALLING)
        yield _inflight(metrics)
        yield _counts("envelope_failures", "Envelopes dropped or refused.", "reason", metrics.envelope_failures.values)
        yield _counts("denied", "Calls denied by policy.", "rule", metrics.denied.values)
        yield _counts("client_attempts", "Tries of calls.", "outcome", metrics.attempts.values)
        yield _sheds(metrics.sheds)
        yield _histogram("limit_wait_seconds", "Seconds that a call waited for a place.", metrics.waited, _CALLED)
        for what, (text, label) in EVENTS.items():
            yield _counts(what, text, label, metrics.events[what].values)
        build = GaugeMetricFamily("busmesh_build_info", "The running version.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        for reading in list(self._readings):
            try:
                yield _reading(reading)
            # One broken reading must not hide all the others from whoever looks for the fault.
            except Exception:
                continue


def _histogram(name: str, text: str, series: Series, labels: tuple[str, ...]) -> Metric:
    family = HistogramMetricFamily(f"busmesh_{name}", text, labels=labels)
    for names, code, cell in series.cells():
        running, buckets = 0.0, []
        for bound, count in zip(_BOUNDS, cell, strict=False):
            running += count
            buckets.append((bound, running))
        family.add_metric([*names, code][: len(labels)], buckets, cell[-1])
    return family


def _inflight(metrics: Metrics) -> Metric:
    family = GaugeMetricFamily("busmesh_inflight", "Calls begun and not ended.", labels=["side", "service", "method"])
    for side, series in (("client", metrics.client), ("server", metrics.server)):
        for (service, method), count in series.inflight().items():
            family.add_metric([side, service, method], count)
    return family


def _counts(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"busmesh_{name}", text, labels=[label])
    for value, count in list(values.items()):
        family.add_metric([value], count)
    return family


def _sheds(sheds: Mapping[str, Counter]) -> Metric:
    text = "Times that an instance left its queue group."
    family = CounterMetricFamily("busmesh_sheds", text, labels=["service", "why"])
    for why, counter in sheds.items():
        for service, count in list(counter.values.items()):
            family.add_metric([service, why], count)
    return family


def _reading(reading: Reading) -> Metric:
    found = reading.read()
    family: CounterMetricFamily | GaugeMetricFamily
    labels = [reading.label] if reading.label else []
    if reading.kind == "counter":
        family = CounterMetricFamily(f"busmesh_{reading.name}", reading.text, labels=labels)
    else:
        family = GaugeMetricFamily(f"busmesh_{reading.name}", reading.text, labels=labels)
    for value, number in found.items() if isinstance(found, Mapping) else [("", found)]:
        family.add_metric([value] if reading.label else [], number)
    return family
