"""Loading golden cases, comparing tensors and dispatching on (system, kind).

A case is `<name>.json` (with `system` and `kind`) and, where it has tensors, `<name>.safetensors` beside it.
What a case computes is decided by its system and kind alone: file names are only printed.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

KINDS: dict[tuple[str, str], str] = {
    ("eve", "adamw_steps"): "tests.parity.kinds_optim:check_steps",
    ("eve", "backbone"): "tests.parity.kinds_backbone:check",
    ("eve", "lr_schedules"): "tests.parity.kinds_optim:check_schedules",
    ("eve", "load_head"): "tests.parity.kinds_load_head:check",
    ("eve", "moe_layer"): "tests.parity.kinds_moe:check",
    ("eve", "optimizer_groups"): "tests.parity.kinds_optim:check_groups",
    ("eve", "nlvr"): "tests.parity.kinds_nlvr:check",
    ("eve", "pos_embed_interp"): "tests.parity.kinds_positions:check",
    ("eve", "randaugment_ops"): "tests.parity.kinds_randaugment:check",
    ("eve", "retrieval"): "tests.parity.kinds_retrieval:check",
    ("eve", "retrieval_metrics"): "tests.parity.kinds_retrieval:check_metrics",
    ("eve", "text_normalise"): "tests.parity.kinds_text:check",
    ("eve", "vqa"): "tests.parity.kinds_vqa:check",
    ("eve", "vqa_targets"): "tests.parity.kinds_vqa:check_targets",
    ("mllm", "hd_transform"): "tests.parity.kinds_mllm_pictures:check_partition",
    ("mllm", "hd_transform_seed_listing"): "tests.parity.kinds_mllm_pictures:check_listing",
    ("mllm", "ixc_conversation_text"): "tests.parity.kinds_mllm_chat:check_texts",
    ("mllm", "ixc_hd_tokens"): "tests.parity.kinds_mllm_pictures:check_tokens",
    ("mllm", "ixc_internlm2_plora"): "tests.parity.kinds_mllm_plora:check_language",
    ("mllm", "ixc_target_mask"): "tests.parity.kinds_mllm_chat:check_masks",
    ("mllm", "nanovlm_projector_tiling"): "tests.parity.kinds_mllm_pictures:check_nanovlm",
    ("mllm", "plora_linear"): "tests.parity.kinds_mllm_plora:check_linear",
    ("mllm", "eval_scoring"): "tests.parity.kinds_videochat2_data:check_scoring",
    ("mllm", "frame_indices"): "tests.parity.kinds_videochat2_data:check_frames",
    ("mllm", "vc2_encode"): "tests.parity.kinds_videochat2:check_encode",
    ("mllm", "vc2_hd_sizes"): "tests.parity.kinds_videochat2_data:check_sizes",
    ("mllm", "vc2_stage1"): "tests.parity.kinds_videochat2:check_stage1",
    ("mllm", "vc2_target_mask"): "tests.parity.kinds_videochat2_data:check_masks",
    ("mllm", "video_llava_splice"): "tests.parity.kinds_videochat2_data:check_splice",
    ("snps3", "cross_encoder"): "tests.parity.kinds_snps3_model:check_cross",
    ("snps3", "frame_sampling"): "tests.parity.kinds_snps3_data:check_frames",
    ("snps3", "iw_masking"): "tests.parity.kinds_snps3_data:check_masking",
    ("snps3", "retrieval_metrics"): "tests.parity.kinds_snps3_data:check_metrics",
    ("snps3", "ss_mining"): "tests.parity.kinds_snps3_data:check_mining",
    ("snps3", "text_processor"): "tests.parity.kinds_snps3_data:check_processor",
    ("snps3", "mc_qa"): "tests.parity.kinds_snps3_tasks:check_choice",
    ("snps3", "pretrain_eval"): "tests.parity.kinds_snps3_tasks:check_pretraining",
    ("snps3", "pretrain_train"): "tests.parity.kinds_snps3_tasks:check_pretraining",
    ("snps3", "qa_classification"): "tests.parity.kinds_snps3_tasks:check_answers",
    ("snps3", "retrieval"): "tests.parity.kinds_snps3_tasks:check_retrieval",
    ("snps3", "loss_units"): "tests.parity.kinds_snps3_model:check_losses",
    ("snps3", "text_encoder"): "tests.parity.kinds_snps3_model:check_text",
    ("snps3", "visual"): "tests.parity.kinds_snps3_model:check_visual",
    ("soho", "backbone"): "tests.parity.kinds_soho_model:check_backbone",
    ("soho", "joint_encoder"): "tests.parity.kinds_soho_model:check_joint",
    ("soho", "neck_pretrain"): "tests.parity.kinds_soho_model:check_neck_pretrain",
    ("soho", "neck_vqa"): "tests.parity.kinds_soho_model:check_neck_vqa",
    ("soho", "pretrain_full"): "tests.parity.kinds_soho_pretrain:check_full",
    ("soho", "pretrain_losses"): "tests.parity.kinds_soho_pretrain:check_losses",
    ("soho", "state_dict_keys"): "tests.parity.kinds_soho_model:check_keys",
    ("soho", "group_sampler"): "tests.parity.kinds_soho_data:check_sampler",
    ("soho", "image_pipeline"): "tests.parity.kinds_soho_data:check_pipeline",
    ("soho", "resize_sizes"): "tests.parity.kinds_soho_data:check_sizes",
    ("soho", "pretrain_dataset"): "tests.parity.kinds_soho_texts:check_pretraining",
    ("soho", "vqa_dataset"): "tests.parity.kinds_soho_texts:check_vqa",
    ("soho", "vqa_full"): "tests.parity.kinds_soho_model:check_vqa",
    ("soho", "lr_schedule"): "tests.parity.kinds_soho_optim:check_schedule",
    ("soho", "optimizer_groups"): "tests.parity.kinds_soho_optim:check_groups",
    ("soho", "optimizer_steps"): "tests.parity.kinds_soho_optim:check_steps",
    ("soho", "visual_dictionary"): "tests.parity.kinds_dictionary:check",
    ("uniperceiver", "caption"): "tests.parity.kinds_uniperceiver:check_captions",
    ("uniperceiver", "classification"): "tests.parity.kinds_uniperceiver:check_classification",
    ("uniperceiver", "collate"): "tests.parity.kinds_uniperceiver:check_collation",
    ("uniperceiver", "embed"): "tests.parity.kinds_uniperceiver:check_embed",
    ("uniperceiver", "glue_textcls"): "tests.parity.kinds_uniperceiver:check_slots",
    ("uniperceiver", "mlm"): "tests.parity.kinds_uniperceiver:check_words",
    ("uniperceiver", "moe_layer"): "tests.parity.kinds_uniperceiver_layers:check",
    ("uniperceiver", "optim_two_steps"): "tests.parity.kinds_uniperceiver_optim:check",
    ("uniperceiver", "pos_embed"): "tests.parity.kinds_uniperceiver:check_positions",
    ("uniperceiver", "prompt"): "tests.parity.kinds_uniperceiver:check_prompts",
    ("uniperceiver", "retrieval"): "tests.parity.kinds_uniperceiver:check_pairs",
    ("uniperceiver", "tokenizer_glue_masking"): "tests.parity.kinds_uniperceiver_texts:check",
    ("uniperceiver", "vqa"): "tests.parity.kinds_uniperceiver:check_slots",
}
"""(system, kind) -> "module:function"; the function is `check(case: Case) -> list[Comparison]`."""

Sort = Literal["output", "loss", "gradient", "exact"]


@dataclass(frozen=True)
class Tolerances:
    """Largest accepted errors: `output` absolute, `loss` and `gradient` relative, `exact` none at all."""

    output: float = 2e-5
    loss: float = 1e-5
    gradient: float = 1e-4
    exact: float = 0.0

    def of(self, sort: Sort) -> float:
        return float(getattr(self, sort))


@dataclass(frozen=True)
class Case:
    """One golden case: `meta` is the JSON file, `tensors` the safetensors file (empty without one)."""

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Case":
        beside = path.with_suffix(".safetensors")
        return cls(path, json.loads(path.read_text()), load_file(beside) if beside.exists() else {})

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names start with `prefix`, without it (`under("w.")`: the weights)."""
        return {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Comparison:
    """One compared quantity. `error` is absolute for outputs, relative for losses and gradients."""

    what: str
    sort: Sort
    error: float

    def ok(self, tolerances: Tolerances) -> bool:
        return self.error <= tolerances.of(self.sort)  # False for NaN too


def _largest(ours: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference; infinite when the shapes differ."""
    if ours.shape != expected.shape:
        return float("inf")
    return (ours.detach().double() - expected.double()).abs().max().item() if expected.numel() else 0.0


def output(what: str, ours: Tensor, expected: Tensor) -> Comparison:
    """Compare tensors element by element, absolute."""
    return Comparison(what, "output", _largest(ours, expected))


def loss(what: str, ours: Tensor | float, expected: Tensor | float) -> Comparison:
    """Compare scalars, relative to the expected one.

    Where terms of both signs nearly cancel, the relative error would only measure float32's rounding of the
    terms; so losses below 0.01 are compared as if they were 0.01.
    """
    a, b = torch.as_tensor(ours), torch.as_tensor(expected)
    return Comparison(what, "loss", _largest(a, b) / max(b.double().abs().item(), 0.01))


def gradient(what: str, ours: Tensor | None, expected: Tensor, floor: float = 1e-5) -> Comparison:
    """Compare gradients: largest difference over the largest expected entry (a missing gradient is zero).

    Where all entries are below `floor` (a gradient that is zero but for rounding) it takes the entry's place.
    """
    got = torch.zeros_like(expected) if ours is None else ours
    scale = max(expected.double().abs().max().item(), floor)
    return Comparison(what, "gradient", _largest(got, expected) / scale)


def exact(what: str, ours: Any, expected: Any) -> Comparison:
    """Compare values that must be equal (counts, masks, names)."""
    if isinstance(expected, Tensor):
        return Comparison(what, "exact", _largest(torch.as_tensor(ours), expected))
    return Comparison(what, "exact", 0.0 if ours == expected else float("inf"))


@dataclass(frozen=True)
class Verdict:
    """What became of one case."""

    case: str
    kind: str
    comparisons: list[Comparison]
    failure: str | None = None

    def misses(self, tolerances: Tolerances) -> list[Comparison]:
        return [c for c in self.comparisons if not c.ok(tolerances)]

    def passed(self, tolerances: Tolerances) -> bool:
        return self.failure is None and bool(self.comparisons) and not self.misses(tolerances)

    def line(self, tolerances: Tolerances) -> str:
        """Return the case's line: verdict, name, kind, the worst comparison measured in its tolerance."""
        head = f"{'pass' if self.passed(tolerances) else 'MISS'}  {self.case}  [{self.kind}]"
        if self.failure is not None:
            return f"{head}  {self.failure}"
        if not self.comparisons:
            return f"{head}  nothing was compared"

        def weight(c: Comparison) -> float:
            share = c.error / max(tolerances.of(c.sort), 1e-300)
            return share if share == share else float("inf")  # NaN first

        worst = max(self.comparisons, key=weight)
        limit = f"{worst.error:.2e} of {tolerances.of(worst.sort):.0e}"
        text = f"{head}  largest error {limit} ({worst.sort} {worst.what})"
        missed = len(self.misses(tolerances))
        return f"{text}; {len(self.comparisons)} compared" + (f", {missed} missed" if missed else "")


def run_case(case: Case, kinds: Mapping[tuple[str, str], str] = KINDS) -> Verdict:
    """Run one case; an unknown kind and an error while computing both come back as failures."""
    name, key = case.path.stem, (str(case.meta.get("system")), str(case.meta.get("kind")))
    label = "/".join(key)
    if key not in kinds:
        known = ", ".join(kind for system, kind in sorted(kinds) if system == key[0]) or "none of it"
        return Verdict(name, label, [], f"unknown kind (known of {key[0]}: {known})")
    module, _, function = kinds[key].partition(":")
    try:
        check: Callable[[Case], list[Comparison]] = getattr(importlib.import_module(module), function)
        return Verdict(name, label, check(case))
    except Exception as error:  # the other cases must still run; the line says what broke
        return Verdict(name, label, [], f"{type(error).__name__}: {error}")


def run_directory(directory: Path, kinds: Mapping[tuple[str, str], str] = KINDS) -> Iterator[Verdict]:
    """Run every case of a directory in the order of the names."""
    for path in sorted(directory.glob("*.json")):
        try:
            case = Case.load(path)
        except (OSError, ValueError, SafetensorError) as error:
            yield Verdict(path.stem, "unreadable", [], f"{type(error).__name__}: {error}")
            continue
        yield run_case(case, kinds)
