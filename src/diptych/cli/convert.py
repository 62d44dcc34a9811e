"""`diptych convert`: published checkpoints to exports, and back."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Heads(StrEnum):
    """Which retrieval heads to take; see `diptych.systems.eve.convert.LoadRules`."""

    best = "best"
    own = "own"
    none = "none"


class VisualType(StrEnum):
    """What becomes of the type row of Uni-Perceiver's patches."""

    auto = "auto"
    merge = "merge"
    use = "use"
    drop = "drop"


class Routing(StrEnum):
    """How the experts of a converted model are chosen."""

    published = "published"
    dropless = "dropless"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""

    @app.command("convert")
    def convert(
        system: Annotated[
            str,
            typer.Argument(
                metavar="SYSTEM",
                help="A system with published checkpoints: eve, internlm2, ixc2-4khd, snps3, soho, "
                "uniperceiver, videochat2.",
            ),
        ],
        checkpoint: Annotated[
            Path,
            typer.Argument(help="Published checkpoint (torch, safetensors), or an export."),
        ],
        out: Annotated[
            Path | None,
            typer.Argument(
                help="Export to write, or a .safetensors file; with --backbone or --bert there is no "
                "CHECKPOINT, and the only path is this one."
            ),
        ] = None,
        to_published: Annotated[bool, typer.Option("--to-published", help="Convert the other way.")] = False,
        to_hf: Annotated[
            bool,
            typer.Option(
                "--to-hf", help="mllm: an export as a folder of Hugging Face, with the export inside."
            ),
        ] = False,
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
        visual_type: Annotated[
            VisualType,
            typer.Option(
                help="uniperceiver: the type row of patches goes into their bias (merge), is added by the "
                "model (use), or is left out (drop); auto merges it for former dense checkpoints."
            ),
        ] = VisualType.auto,
        tokenizer: Annotated[
            Path | None, typer.Option(help="tokenizer.json to put beside the weights.")
        ] = None,
        answers: Annotated[
            Path | None, typer.Option(help="JSON list of the answers that a VQA checkpoint chooses among.")
        ] = None,
        backbone: Annotated[
            Path | None,
            typer.Option(
                help="soho, snps3: a ResNet of torchvision to start pre-training from; snps3: or a Video "
                "Swin or PVT v2."
            ),
        ] = None,
        bert: Annotated[
            Path | None,
            typer.Option(help="soho, snps3: a BERT whose first layers to start pre-training from."),
        ] = None,
        layers: Annotated[
            int | None,
            typer.Option(min=1, help="Layers to take from --bert; default: 3 for soho, all for snps3."),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    ) -> None:
        """Turn a published checkpoint into an export that Diptych trains from and evaluates, or back."""
        from diptych.errors import UsageError
        from diptych.systems.importing import ImportOptions
        from diptych.tasks.vqa import ASSET
        from diptych.tasks.vqa_answers import read_answers
        from diptych.train.published import assemble_to, converter_of, import_to, publish_to

        if to_hf:
            from diptych.train.hf_folder import write_hf_folder

            if system != "mllm" or out is None:
                raise UsageError(
                    "convert --to-hf: expected mllm, an export or a run, and the folder to write"
                )
            if out.exists() and not force:
                raise UsageError(f"{out} exists; choose another name or give --force")
            typer.echo(write_hf_folder(checkpoint, out))
            return
        converter_of(system)
        parts = backbone is not None or bert is not None
        if parts != (out is None):
            raise UsageError(
                "convert: give CHECKPOINT and OUT, or OUT alone with --backbone or --bert"
                if parts
                else "convert: OUT is missing: where the export is to be written"
            )
        out = checkpoint if out is None else out
        if out.exists() and not force:
            raise UsageError(f"{out} exists; choose another name or give --force")
        if parts:
            ignored = assemble_to(system, out, backbone, bert, layers, tokenizer)
        elif to_published:
            ignored = publish_to(system, checkpoint, out)
        else:
            options = ImportOptions(
                heads.value, image_size, attention_heads, routing.value, visual_type.value
            )
            assets = None if answers is None else {ASSET: read_answers(answers, "--answers")}
            ignored = import_to(system, checkpoint, out, tokenizer, options, assets)
        if ignored:
            typer.echo(f"left out: {', '.join(ignored)}", err=True)
        typer.echo(out)
