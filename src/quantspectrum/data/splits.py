"""Disjoint sets of samples for calibration, for choosing, and for the final figures."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from quantspectrum.artifacts import DataIdentity
from quantspectrum.data.images import picture_key
from quantspectrum.data.sample import Sample
from quantspectrum.data.sources import DEMO, load_samples
from quantspectrum.data.strata import balanced_sequence, even_shares
from quantspectrum.errors import UserError

__all__ = ["Splits", "check_disjoint", "identity", "make_splits"]

MOST_SCENES = 100_000
"""Scenes of the demo a split at most: each is a picture in memory."""

SplitName = Literal["calibration", "selection", "evaluation", "prompts"]
_NAMES: tuple[Literal["calibration", "selection", "evaluation"], ...] = (
    "calibration",
    "selection",
    "evaluation",
)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Three sets of samples that share neither a sample nor a unit.

    Attributes:
        calibration: Samples the formats' ranges and the sensitivities are measured on.
        selection: Samples a choice between profiles may look at.
        evaluation: Samples the reported figures are measured on, and nothing else.
        source: The data specs they come from.
    """

    calibration: tuple[Sample, ...]
    selection: tuple[Sample, ...]
    evaluation: tuple[Sample, ...]
    source: str


@dataclass(frozen=True)
class _Entry:
    """A sample with what is asked of it more than once."""

    sample: Sample
    digest: str
    stratum: tuple[str, bool]
    """Its source, and whether it has a picture."""

    order: str
    """Its place in the seeded order, which depends on its content and on nothing else."""


def make_splits(
    specs: Sequence[str],
    *,
    images: Path | None,
    calibration: int,
    selection: int,
    evaluation: int,
    seed: int,
) -> Splits:
    """Draw three disjoint splits of exactly the sizes asked for.

    Samples that share a unit, a picture or their whole content stay together, and exact
    duplicates are dropped. Each source, and in it text-only and image+text, is a stratum;
    the strata have even shares (a small one gives all it has), the same in every split. A
    second sample of a unit is drawn only where the units do not suffice. The result depends on the
    samples, the sizes and the seed, not on the order of sources or samples.

    Args:
        specs: Data sources, see `load_samples`; `DEMO` stands alone and brings its own splits.
        images: Folder of the pictures.
        calibration: Samples in that split; so ``selection`` and ``evaluation``.
        selection: See ``calibration``.
        evaluation: See ``calibration``.
        seed: Which samples are drawn.

    Raises:
        UserError: A source is wrong, or there are too few samples or units.
    """
    sizes = (calibration, selection, evaluation)
    if min(sizes) < 0 or sum(sizes) == 0:
        raise UserError(f"split sizes {sizes} are not usable; give whole numbers, one above zero")
    if not specs:
        raise UserError("no data source is given; name one, such as demo or text:FILE.txt")
    if DEMO in specs:
        drawn = _demo(specs, sizes, seed)
    else:
        drawn = _draw(_entries(sorted(set(specs)), images, seed), sizes)
    source = " + ".join(sorted(set(specs)))
    splits = Splits(calibration=drawn[0], selection=drawn[1], evaluation=drawn[2], source=source)
    check_disjoint(splits)
    return splits


def identity(samples: Sequence[Sample], source: str, split: SplitName) -> DataIdentity:
    """Identify a set of samples by the SHA-256 of its sorted sample digests."""
    digests = "".join(sorted(sample.digest() for sample in samples))
    return DataIdentity(
        source=source,
        split=split,
        samples=len(samples),
        sha256=hashlib.sha256(digests.encode()).hexdigest(),
    )


def check_disjoint(splits: Splits) -> None:
    """Make sure that no sample and no unit is in two splits, and no id is used twice.

    Raises:
        UserError: Two samples have the same id.
        AssertionError: A sample or a unit is in two splits.
    """
    sets: dict[str, tuple[Sample, ...]] = {name: getattr(splits, name) for name in _NAMES}
    ids = Counter(sample.id for samples in sets.values() for sample in samples)
    for name, count in ids.items():
        if count > 1:
            raise UserError(
                f"{count} samples of {splits.source} are called {name!r}; "
                "rename a file or give other ids"
            )
    digests = {name: {s.digest() for s in samples} for name, samples in sets.items()}
    units = {name: {s.unit for s in samples if s.unit} for name, samples in sets.items()}
    for one, other in combinations(_NAMES, 2):
        for what, found in (("sample", digests), ("unit", units)):
            shared = found[one] & found[other]
            if shared:  # raised even under -O: figures on leaked data are worse than none
                raise AssertionError(f"{one} and {other} share the {what} {min(shared)!r}")


def _demo(specs: Sequence[str], sizes: tuple[int, ...], seed: int) -> list[tuple[Sample, ...]]:
    if len(set(specs)) > 1:
        raise UserError(
            "demo has splits of its own and cannot be mixed; give it without other data sources"
        )
    if max(sizes) > MOST_SCENES:
        raise UserError(
            f"demo draws at most {MOST_SCENES} scenes a split, not {max(sizes)}; ask for fewer (--calibration, "
            "--samples, --eval-samples)"
        )
    from quantspectrum.demo.samples import demo_samples

    return [
        tuple(demo_samples(name, size, seed)) if size else ()
        for name, size in zip(_NAMES, sizes, strict=True)
    ]


def _entries(specs: Sequence[str], images: Path | None, seed: int) -> list[_Entry]:
    entries = []
    for spec in specs:
        for sample in load_samples(spec, images=images):
            digest = sample.digest()
            order = hashlib.sha256(f"{seed}:{digest}".encode()).hexdigest()
            entries.append(_Entry(sample, digest, (spec, sample.image is not None), order))
    # By content first, so that nothing below sees the order of the input.
    return sorted(entries, key=lambda entry: (entry.order, entry.stratum, entry.sample.id))


def _draw(entries: list[_Entry], sizes: tuple[int, ...]) -> list[tuple[Sample, ...]]:
    clusters = _clusters(entries)
    available = Counter(entry.stratum for cluster in clusters for entry in cluster)
    if available.total() < sum(sizes):
        raise _too_few(clusters, available.total(), sizes)
    strata = dict(sorted(available.items()))
    demands = balanced_sequence(even_shares(strata, sum(sizes)), sizes)
    drawn = []
    for owned, demand in zip(_deal(clusters, demands), demands, strict=True):
        picked = _pick(owned, demand)
        if len(picked) < demand.total():
            raise _too_few(clusters, available.total(), sizes)
        drawn.append(tuple(picked))
    return drawn


def _clusters(entries: list[_Entry]) -> list[list[_Entry]]:
    """Samples linked by a unit, a picture or their content, together; then without duplicates."""
    parent = list(range(len(entries)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[tuple[str, str], int] = {}
    pictures: dict[Path, str] = {}
    for place, entry in enumerate(entries):
        for link in _links(entry, pictures):
            parent[root(place)] = root(first.setdefault(link, place))
    clusters: dict[int, dict[str, _Entry]] = {}
    for place, entry in enumerate(entries):
        clusters.setdefault(root(place), {}).setdefault(entry.digest, entry)
    return [list(cluster.values()) for cluster in clusters.values()]


def _links(entry: _Entry, pictures: dict[Path, str]) -> list[tuple[str, str]]:
    links = [("content", entry.digest)]
    if entry.sample.unit:
        links.append(("unit", entry.sample.unit))
    image = entry.sample.image
    if isinstance(image, Path):
        if image not in pictures:
            pictures[image] = picture_key(image)
        links.append(("picture", pictures[image]))
    elif image is not None:
        links.append(("picture", picture_key(image)))
    return links


def _deal(
    clusters: list[list[_Entry]], demands: list[Counter[tuple[str, bool]]]
) -> list[list[list[_Entry]]]:
    """Give every cluster to the split that lacks it most, as a share of what it demands.

    A split whose demand is met gets no more before all are met, so that clusters of one sample
    always suffice; the large ones go first, when there is still room for them.
    """
    owned: list[list[list[_Entry]]] = [[] for _ in demands]
    held: list[Counter[tuple[str, bool]]] = [Counter() for _ in demands]

    def need(split: int, sizes: Counter[tuple[str, bool]]) -> tuple[float, float]:
        filled = [
            held[split][s] / demands[split][s] if demands[split][s] else float("inf") for s in sizes
        ]
        return sum(max(0.0, 1 - share) for share in filled), -sum(filled)

    sized = [(Counter(entry.stratum for entry in cluster), cluster) for cluster in clusters]
    sized.sort(key=lambda pair: (-len(pair[0]), -len(pair[1]), pair[1][0].order))
    for sizes, cluster in sized:
        split = max(range(len(demands)), key=lambda place: need(place, sizes))
        owned[split].append(cluster)
        held[split].update(sizes)
    return owned


def _pick(owned: list[list[_Entry]], demand: Counter[tuple[str, bool]]) -> list[Sample]:
    """As many samples of each stratum as demanded, from as many clusters as possible.

    Strata take turns, so that a prefix of the result is as mixed as the whole.
    """
    ranked: dict[tuple[str, bool], list[tuple[int, str, _Entry]]] = {}
    for cluster in owned:
        seen: Counter[tuple[str, bool]] = Counter()
        for entry in cluster:
            turn = seen[entry.stratum]
            seen[entry.stratum] += 1
            ranked.setdefault(entry.stratum, []).append((turn, entry.order, entry))
    placed = []
    for stratum in sorted(ranked):
        chosen = sorted(ranked[stratum], key=lambda item: item[:2])[: demand[stratum]]
        for place, (_, _, entry) in enumerate(chosen):
            placed.append(((place + 0.5) / demand[stratum], stratum, entry.sample))
    return [sample for _, _, sample in sorted(placed, key=lambda item: item[:2])]


def _too_few(clusters: list[list[_Entry]], samples: int, sizes: tuple[int, ...]) -> UserError:
    asked = " + ".join(f"{size} {name}" for name, size in zip(_NAMES, sizes, strict=True))
    return UserError(
        f"the data have {len(clusters)} units with {samples} different samples, too few to keep "
        f"{asked} samples apart; ask for fewer (--calibration, --samples, --eval-samples) or add data"
    )
