"""From the settings to the sources of a run and the plan of its batches."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from diptych.data.blocked import BlockedOrder
from diptych.data.bucket import PublishedGroups, ShapeCutter, shape_codes
from diptych.data.budget import BudgetCutter, Costs, Cutter, WindowPlan, sample_costs
from diptych.data.config import DataConfig, SourceConfig
from diptych.data.mixture import Cycle, MixedStream, PartsPlan, check_parts, quotas, shares
from diptych.data.mixture_config import flattened
from diptych.data.order import Order, derived, uniforms
from diptych.data.packing import PackCutter
from diptych.data.plan import OneSource, Plan, PositionPlan, Stream
from diptych.errors import ConfigError, DataError
from diptych.resolve import nearest

if TYPE_CHECKING:
    from diptych.data.index import Selection

ONLY = "data"
"""Name of the source where `data.sources` has none."""


def source_configs(config: DataConfig) -> dict[str, SourceConfig]:
    """Return the sources to draw from, in the order of their numbers, with what `data` says filled in.

    Sources of weight 0 are left out. Without `data.sources` there is one, called `data`.
    """
    own = {name: source for name, source in config.sources.items() if source.weight != 0}
    if config.sources and not own:
        raise ConfigError("data.sources: all weights are 0; give at least one source a weight above 0")
    return {
        name: source.with_(
            path=source.path or config.path,
            split=config.split if source.split is None else source.split,
            where=config.where if source.where is None else source.where,
            examples=source.examples or config.examples,
            task=source.task or name,
            share=source.share or config.share,
            batch_size=source.batch_size or config.loader.batch_size,
        )
        for name, source in (own or {ONLY: SourceConfig()}).items()
    }


def source_labels(config: DataConfig) -> list[str]:
    """Return what the samples of each source train: its `task`, or its name."""
    return [source.task for source in source_configs(config).values()]


def source_data(config: DataConfig, name: str) -> DataConfig:
    """Return the settings of a source that is drawn from by itself: `data` with what is its own.

    Raises:
        ConfigError: its own settings are wrong; the message names the key.
    """
    source = source_configs(config)[name]
    values = config.model_dump()
    values |= {"sources": {}, "mixture": {}, "share": 1.0, "share_by": ""}
    values |= {key: getattr(source, key) for key in ("path", "split", "where", "examples")}
    values["loader"] |= {"batch_size": source.batch_size}
    for key, value in flattened(source.settings):
        section, _, rest = key.partition(".")
        *above, last = rest.split(".")
        place = values[section]
        for part in above:
            place = place.get(part, {}) if isinstance(place, dict) else {}
        if not isinstance(place, dict) or last not in place:
            known = list(place) if isinstance(place, dict) else []
            raise ConfigError(
                f"data.sources.{name}.settings.{key}: there is no setting data.{key}{nearest(last, known)}"
            )
        place[last] = value
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'data'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise ConfigError(f"data.sources.{name}.settings: {wrong}") from error


def thinned(selection: "Selection", share: float, by: str = "", seed: int = 0) -> "Selection":
    """Return a share of a selection, the same samples every time.

    Every sample has a number drawn by (seed, its row in the index), and those with the smallest ones are
    taken, so that a smaller share is part of a larger one.

    Args:
        selection: n samples.
        share: above 0; int(share n) samples are taken, at least one.
        by: column of the index; of the n samples of each value int(share n) + 1 are taken (published), at
            most n. A sample without a value is left out.
        seed: another one takes other samples.

    Raises:
        DataError: there is no such column.
    """
    from diptych.data.selection import Selection

    if share >= 1:
        return selection
    rows = selection.rows
    order = np.argsort(uniforms(derived(seed, "share"), rows, 1)[:, 0], kind="stable")
    if not by:
        return Selection(selection.dataset, np.sort(rows[order[: max(int(share * len(rows)), 1)]]))
    values = selection.column(by)
    of_value: dict[str, list[int]] = {}
    for number in order.tolist():
        if values[number] is not None and values[number] != "":
            of_value.setdefault(str(values[number]), []).append(number)
    kept = [i for numbers in of_value.values() for i in numbers[: int(share * len(numbers)) + 1]]
    return Selection(selection.dataset, np.sort(rows[np.asarray(kept, dtype=np.int64)]))


def open_sources(config: DataConfig) -> "dict[str, Selection]":
    """Return what to train on (samples, their questions or statements) by the names of the sources.

    They are in the order of their numbers. Sources of one dataset open it once.

    Raises:
        ConfigError: no dataset is named, or all sources have weight 0.
        DataError: a dataset cannot be read, or a source selects nothing.
    """
    from diptych.data.examples import expand
    from diptych.data.index import ShardDataset

    opened: dict[str, ShardDataset] = {}
    found: dict[str, Selection] = {}
    for name, source in source_configs(config).items():
        key = f"data.sources.{name}" if config.sources else "data"
        if not source.path:
            raise ConfigError(
                f"{key}.path: no dataset is given; set it to a folder that `diptych data prepare` made"
            )
        if source.path not in opened:
            opened[source.path] = ShardDataset.open(source.path, config.remote)
        selection = opened[source.path].select(source.split, source.where)
        if len(selection) == 0:
            raise DataError(
                f"{source.path}: {key}.split = {source.split} and {key}.where = {source.where} select no "
                f"samples; `diptych data query {source.path}` shows what there is"
            )
        selection = thinned(selection, source.share or 1.0, config.share_by, config.share_seed)
        found[name] = expand(selection, source.examples or config.examples)
    return found


def make_plan(sources: "Mapping[str, Selection]", config: DataConfig, *, seed: int, world: int = 1) -> Plan:
    """Return which samples make up each batch.

    Args:
        sources: what `open_sources` returned; one source may have any name.
        config: the settings.
        seed: that of the run.
        world: number of ranks, to refuse settings that do not go with it; it changes nothing else.

    Raises:
        ConfigError: shares that do not add up, or more sources than a cycle has room for.
        DataError: a budget that cannot hold a sample (of each rank), a missing column, or parts and ranks
            that do not go together.
    """
    loader = config.loader
    names = list(sources)
    if loader.bucket == "published":
        if len(sources) > 1:
            raise ConfigError("data.loader.bucket = published: takes one source; use aspect or shape")
        return PublishedGroups(next(iter(sources.values())), loader.batch_size, world)
    costs = [_costs(selection, config) for selection in sources.values()]
    if loader.budget and not loader.pack:
        _check_budget(sources, costs, config, world)
    if len(sources) == 1:
        order = _order(next(iter(sources.values())), config, seed)
        return _batches(OneSource(order, _settings(config)), costs, config, seed, 1, world)
    known = [config.sources[name] for name in names]
    wanted = shares(
        [len(selection) for selection in sources.values()],
        [source.weight for source in known],
        [source.cap for source in known],
        config.mixture.temperature,
    )
    cycle = Cycle(quotas(wanted, config.mixture.cycle), seed)
    seeds = [derived(seed, name) for name in names]
    orders = [_order(s, config, own) for s, own in zip(sources.values(), seeds, strict=True)]
    settings = {"sources": names, **_settings(config)}
    parts = config.mixture.parts
    if not parts:
        settings |= orders[0].identity()
        return _batches(MixedStream(orders, cycle, settings), costs, config, seed, 1, world)
    check_parts(parts, world)
    plans = [
        _batches(OneSource(order), [own], config, own_seed, parts, max(world // parts, 1))
        for order, own, own_seed in zip(orders, costs, seeds, strict=True)
    ]
    return PartsPlan(
        plans, cycle, parts, {**settings, **plans[0].identity(), "batch_size": loader.batch_size}
    )


def _batches(
    stream: Stream, costs: Sequence[Costs | None], config: DataConfig, seed: int, parts: int, world: int
) -> Plan:
    """Return batches (or the parts of batches) of a stream."""
    loader = config.loader
    most = loader.batch_size // parts
    known = [c for c in costs if c is not None]
    if not known:
        return PositionPlan(stream, most)
    budget = loader.budget // parts
    settings: dict[str, Any] = {"batch_size": most, "budget": loader.budget, "window": loader.budget_window}
    cutter: Cutter
    if loader.pack:
        length = config.text.max_tokens
        cutter = PackCutter(seed, length, min(most, budget // length) if budget else most)
        settings |= {"pack": True, "max_tokens": length}
    elif loader.bucket != "none":
        cutter = ShapeCutter(seed, most, sort=loader.bucket == "shape", least=world)
        settings = {"batch_size": most, "window": loader.budget_window, "bucket": loader.bucket}
    else:
        cutter = BudgetCutter(seed, budget, most)
        settings |= {"budget_by": loader.budget_by}
        if loader.budget_by == "text":
            settings |= {"max_tokens": config.text.max_tokens}
        elif loader.budget_by == "tiles":
            settings |= {"tiling": config.image.tiling.model_dump()}
    return WindowPlan(stream, known, cutter, loader.budget_window, settings)


def _costs(selection: "Selection", config: DataConfig) -> Costs | None:
    if config.loader.bucket != "none":
        return shape_codes(selection)
    if config.loader.pack:
        return sample_costs(selection, config, "text")
    return sample_costs(selection, config, config.loader.budget_by) if config.loader.budget else None


def _check_budget(
    sources: "Mapping[str, Selection]", costs: Sequence[Costs | None], config: DataConfig, world: int
) -> None:
    """Refuse a budget that would leave out a sample, or a rank."""
    loader, parts = config.loader, config.mixture.parts if len(sources) > 1 else 0
    budget = loader.budget // max(parts, 1)
    sharing = max(world // max(parts, 1), 1)
    for name, own in zip(sources, costs, strict=True):
        assert own is not None
        worst = int(own.max())
        if worst > budget:
            over = int((own > budget).sum())
            raise DataError(
                f"data.loader.budget = {loader.budget}: {over} samples of {name} cost more than the {budget} "
                f"of a {'part of a batch' if parts else 'batch'} (by data.loader.budget_by = "
                f"{loader.budget_by} up to {worst}); raise it, or leave them out with data.where"
            )
        # `cut_by_budget` may halve what the budget allows for the most expensive samples.
        fewest = (min(budget // worst, loader.batch_size // max(parts, 1)) + 1) // 2
        if world > 1 and fewest < sharing:
            raise DataError(
                f"data.loader.budget = {loader.budget}: samples of {name} cost up to {worst}, so a batch may "
                f"have {fewest} of them for {sharing} ranks; raise data.loader.budget to "
                f"{2 * sharing * worst * max(parts, 1)} and data.loader.batch_size to at least "
                f"{2 * sharing * max(parts, 1)}"
            )


def _order(selection: "Selection", config: DataConfig, seed: int) -> Order:
    loader, size = config.loader, len(selection)
    if loader.block_size and loader.shuffle:
        return BlockedOrder(size, seed, block_size=loader.block_size, window=loader.block_window)
    groups = group_labels(selection, loader.group_by) if loader.group_size > 1 else None
    return Order(size, seed, loader.shuffle, groups=groups, group_size=loader.group_size)


def _settings(config: DataConfig) -> dict[str, Any]:
    """Return the settings of the orders that they cannot tell themselves."""
    return {"group_size": config.loader.group_size, "group_by": config.loader.group_by}


def group_labels(selection: "Selection", column: str) -> np.ndarray:
    """Return one number a sample, equal where the column is; a sample without a value is a group alone."""
    known: dict[str, int] = {}
    values = selection.column(column)
    labels = [i if v is None or v == "" else known.setdefault(str(v), i) for i, v in enumerate(values)]
    return np.asarray(labels, dtype=np.int64)
