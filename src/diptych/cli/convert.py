"""`diptych convert`: published checkpoints to exports, and back."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import Tensor

SYSTEMS = ("eve",)


class Heads(StrEnum):
    """Which retrieval heads to take; see `diptych.systems.eve.convert.LoadRules`."""

    best = "best"
    own = "own"
    none = "none"


class Routing(StrEnum):
    """How the experts of a converted model are chosen."""

    published = "published"
    dropless = "dropless"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("convert")
    def convert(
        system: Annotated[str, typer.Argument(metavar="SYSTEM", help=f"One of: {', '.join(SYSTEMS)}.")],
        checkpoint: Annotated[
            Path,
            typer.Argument(help="Published checkpoint (torch, safetensors), or an export."),
        ],
        out: Annotated[Path, typer.Argument(help="Export to write, or a .safetensors file.")],
        to_published: Annotated[bool, typer.Option("--to-published", help="Convert the other way.")] = False,
        image_size: Annotated[
            int | None, typer.Option(help="Side of the pictures to come: resizes the position table.")
        ] = None,
        attention_heads: Annotated[
            int | None, typer.Option(help="Attention heads; default: one per 64 of width.")
        ] = None,
        heads: Annotated[
            Heads,
            typer.Option(help="Retrieval heads: of masked pre-training if any, own (plain), none."),
        ] = Heads.best,
        routing: Annotated[
            Routing, typer.Option(help="published: experts drop tokens beyond their capacity.")
        ] = Routing.published,
        tokenizer: Annotated[
            Path | None, typer.Option(help="tokenizer.json to put beside the weights.")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    ) -> None:
        """Turn a published checkpoint into an export that Diptych trains from and evaluates, or back."""
        from diptych.errors import UsageError

        if system not in SYSTEMS:
            raise UsageError(f"convert: unknown system '{system}' (known: {', '.join(SYSTEMS)})")
        if out.exists() and not force:
            raise UsageError(f"{out} exists; choose another name or give --force")
        if to_published:
            ignored = _publish(checkpoint, out)
        else:
            ignored = _import(checkpoint, out, (heads.value, image_size, attention_heads), routing, tokenizer)
        if ignored:
            typer.echo(f"left out: {', '.join(ignored)}", err=True)
        typer.echo(out)


def _import(
    checkpoint: Path,
    out: Path,
    rules: tuple[Any, int | None, int | None],
    routing: Routing,
    tokenizer: Path | None,
) -> list[str]:
    """Write an export; return the published keys that were left out."""
    from diptych.blocks.router import RouterConfig
    from diptych.data.text import Tokenizer
    from diptych.systems.eve.checkpoint import import_checkpoint
    from diptych.train.export import write_export

    config, state, ignored = import_checkpoint(checkpoint, *rules)
    if routing is Routing.dropless:
        config = config.with_(router=RouterConfig(modality=config.router.modality))
    settings: dict[str, Any] = {
        "system": config.model_dump(mode="json"),
        "data": {
            "image": {"size": config.image_size, "resize": "squash"},
            "text": {"max_tokens": min(40, config.max_text_tokens), "clean": "caption", "max_words": 30},
        },
        **_retrieval(state, config.width),
    }
    words = Tokenizer.from_file(tokenizer) if tokenizer is not None else None
    write_export(out, state, words, settings)
    return ignored


def _retrieval(state: "dict[str, Tensor]", width: int) -> dict[str, Any]:
    """Return a `task` section with the published evaluation if the retrieval heads are complete."""
    from diptych.systems.eve.convert import HEADS
    from diptych.tasks.retrieval_config import RetrievalConfig

    if not all(name in state for name in HEADS.values()):
        return {}
    dim = state["itc.visual.weight"].shape[0]
    task = RetrievalConfig(
        itc_dim=0 if dim == width else dim,
        eval_final_norm=False,
        eval_texts="each",
        rerank_batching="queries",
        k_test=128,
    )
    return {"task": task.model_dump(mode="json")}


def _publish(export: Path, out: Path) -> list[str]:
    """Write a safetensors file in the published layout; return our names that have no place in it."""
    from safetensors.torch import save_file

    from diptych.systems.eve.convert import HEADS, to_published
    from diptych.train.export import find_weights, read_weights

    state = read_weights(find_weights(export)).state
    known = {n: t for n, t in state.items() if n.startswith("model.") or n in HEADS.values()}
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.tmp")
    save_file({n: t.contiguous() for n, t in to_published(known).items()}, aside)
    aside.replace(out)
    return sorted(state.keys() - known.keys())
