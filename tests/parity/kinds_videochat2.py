"""Kinds of VideoChat2: stage 1, and media to tokens in stages 2 and 3."""

from typing import Any

import torch
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from torch import Tensor

from diptych.blocks.collective import ALONE
from diptych.blocks.qformer import QFormerConfig
from diptych.blocks.video_vit import VideoVit, VideoVitConfig, our_video_name, video_positions
from diptych.data.text import Tokenizer
from diptych.objectives.contrastive import matches
from diptych.objectives.matching import Negatives, candidate_weights, itm_loss, matching_passes
from diptych.objectives.queries import query_similarity
from diptych.systems.mllm.qformer import (
    QFormerConnector,
    connector_from_published,
    published_connector_name,
)
from diptych.systems.qformer.config import QFormerSystemConfig
from diptych.systems.qformer.convert import from_published, to_published
from diptych.systems.qformer.model import QFormerModel, Queried
from diptych.tasks.qformer_align import QFormerAlignTask
from diptych.tasks.qformer_align_config import QFormerAlignConfig


def video_config(config: dict[str, Any]) -> VideoVitConfig:
    """Return the sizes of a case's video transformer; its table has the published size whatever the grid."""
    return VideoVitConfig(
        width=config["vision_width"],
        layers=config["vit_depth_config"] + config["vit_return_index"] + 1,
        heads=config.get("vit_heads", 3),
        hidden=4 * config["vision_width"],
        patch_size=config["patch"],
    )


def check_stage1(case: Case) -> list[Comparison]:
    """Compare encoders, similarities, weights of negatives, the three losses and gradients."""
    task = _stage1(case)
    model, given = task.model, case.under("in.")
    ids, mask = given["input_ids"], given["attention_mask"].bool()
    done = _positions(case)
    visual = model.embed_visual(given["image"])
    done.append(output("vision_encoder", model.visual(given["image"]), case.tensors["out.vision_encoder"]))
    done.append(output("vision_embeds", visual, case.tensors["out.vision_embeds"]))
    seen, text = model.query(visual), model.encode_text(ids, mask)
    assert text.pooled_raw is not None
    for what, ours in (
        ("query_hidden", seen.states),
        ("text_hidden", text.tokens),
        ("text_pooled", text.pooled_raw),
        ("vision_proj", model.visual_projection(seen.states)),
        ("text_proj", model.text_projection(text.pooled_raw)),
    ):
        done.append(output(what, ours, case.tensors[f"out.{what}"]))
    matching = matches(given["idx"], given["idx"])
    similar = query_similarity(seen.parts, text.pooled, model.config.aggregate) / task.temperature
    done.append(output("sim_v2t", similar, case.tensors["out.sim_v2t"]))
    done.append(output("sim_t2v", similar.t(), case.tensors["out.sim_t2v"]))
    for name, logits in (("v2t", similar), ("t2v", similar.t())):
        recorded = case.tensors[f"aux.vtm_weights_{name}"]
        ours = candidate_weights(logits.detach(), matching, task.config.negative_floor)
        done.append(output(f"weights {name}", ours, recorded))
    losses = _losses(case, task, seen, visual, text.pooled)
    for name, value in losses.items():
        done.append(loss(name, value, case.tensors[f"out.{name}"]))
    total: Any = torch.stack(list(losses.values())).sum()
    total.backward()
    return done + _gradients(case, task) + _round_trip(case, task)


def _losses(
    case: Case, task: QFormerAlignTask, seen: Queried, visual: Tensor, texts: Tensor
) -> dict[str, Tensor]:
    given = case.under("in.")
    ids, mask, numbers = given["input_ids"], given["attention_mask"].bool(), given["idx"]
    images, words = case.tensors["aux.vision_neg_indices"], case.tensors["aux.text_neg_indices"]
    there = torch.ones_like(images, dtype=torch.bool)
    own = torch.arange(len(ids))
    passes = matching_passes(own, own, Negatives(images, words, there, there))
    logits, labels = task.match(visual, ids, mask, passes)
    return {
        "loss_vtc": task.contrast(seen.parts, texts, numbers, ALONE)[0],
        "loss_vtm": itm_loss(logits, labels),
        "loss_cap": task.write(seen, ids, mask, ALONE),
    }


def _stage1(case: Case) -> QFormerAlignTask:
    config = case.meta["config"]
    still = case.tensors["in.image"].shape[1] == 1
    system = QFormerSystemConfig(
        image_size=config["image"],
        frames=config["frames"],
        stills="published" if still else "one",
        video=video_config(config),
        qformer=QFormerConfig(
            queries=config["num_query_tokens"],
            extra_queries=0,
            width=config["qformer_width"],
            layers=config["qformer_layers"],
            heads=config["qformer_heads"],
            hidden=config["qformer_intermediate"],
            cross_every=config["cross_attention_freq"],
            vocab_size=config["vocab"],
            max_text_tokens=config["max_position"],
        ),
        embed_dim=config["embed_dim"],
        aggregate=config["agg_method"],
    )
    assert config["bos_id_DEC"] == config["vocab"] - 1
    pair = "concat" if config["vtm_cat_text_cls"] else "add" if config["vtm_add_text_cls"] else "queries"
    settings = QFormerAlignConfig(pair=pair, temperature=config["temp"])
    task = QFormerAlignTask(QFormerModel(system), settings, Tokenizer.train(["a word"], 40))
    found = from_published(case.under("param."))
    assert not found.ignored, found.ignored
    task.load_state_dict(found.state)
    return task.eval()


def _positions(case: Case) -> list[Comparison]:
    config = case.meta["config"]
    side, width = config["image"] // config["patch"], config["vision_width"]
    done = []
    for name, frames in (("pos_embed", config["frames"]), ("img_pos_embed", 1)):
        if f"const.{name}" in case.tensors:
            table = video_positions(frames, side, width, 4, 14)[None]
            done.append(output(name, table, case.tensors[f"const.{name}"]))
    return done


def _gradients(case: Case, task: QFormerAlignTask) -> list[Comparison]:
    ours = dict(task.named_parameters())
    done = []
    for name, expected in case.under("grad.").items():
        found = from_published({name: expected, "query_tokens": expected}).state
        own = next(n for n in found if n != "model.qformer.query_tokens" or name == "query_tokens")
        done.append(gradient(name, ours[own].grad, expected))
    return done


def _round_trip(case: Case, task: QFormerAlignTask) -> list[Comparison]:
    back = to_published(task.state_dict())
    published = case.under("param.")
    return [exact("keys", set(back), set(published))] + [
        exact(name, back[name], tensor) for name, tensor in published.items() if name in back
    ]


def check_encode(case: Case) -> list[Comparison]:
    """Compare what the language model gets in stages 2 (no instruction) and 3."""
    config = case.meta["config"]
    video = VideoVit(video_config(config)).eval()
    published = case.under("param.")
    prefix = "vision_encoder.encoder."
    seeing = {
        our_video_name(name.removeprefix(prefix)) or name: tensor
        for name, tensor in published.items()
        if name.startswith(prefix)
    }
    video.load_state_dict(seeing)
    weights, others = connector_from_published(published)
    hidden = weights["qformer.layers.0.query_ffn.fc1.weight"].shape[0]
    words = published.get("qformer.bert.embeddings.word_embeddings.weight")
    places = published.get("qformer.bert.embeddings.position_embeddings.weight")
    sizes = QFormerConfig(
        queries=config["num_query_token"],
        extra_queries=config["extra_num_query_token"],
        width=config["qformer_width"],
        layers=config["qformer_layers"],
        heads=config["qformer_heads"],
        hidden=hidden,
        text=config["qformer_text_input"],
        vocab_size=50 if words is None else len(words),
        max_text_tokens=16 if places is None else len(places),
    )
    connector = QFormerConnector(sizes, config["vision_width"], config["llm_width"]).eval()
    connector.load_state_dict(weights)
    ids, mask = case.tensors.get("in.input_ids"), case.tensors.get("in.attention_mask")
    seen = video(case.tensors["in.image"])
    tokens = connector(seen.flatten(1, 2), ids, None if mask is None else mask.bool())
    names = {published_connector_name(name): name for name in connector.state_dict()}
    return [
        *_positions(case),
        exact("nothing is left", [n for n in others if not n.startswith(prefix)], []),
        exact("names", set(names), set(published) - set(others)),
        output("llm_inputs", tokens, case.tensors["out.llm_inputs"]),
    ]
