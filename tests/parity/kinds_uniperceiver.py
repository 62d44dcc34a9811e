"""Kinds of Uni-Perceiver: embeddings, classification, words, questions, pairs, prompts, captions."""

import torch
import torch.nn.functional as F
from tests.parity.runner import Case, Comparison, exact, gradient, loss, output
from tests.parity.uniperceiver_common import (
    Network,
    gradients,
    load,
    padding_of,
    recorded_losses,
    rule_of,
    task_loss,
    temperature_of,
)
from torch import Tensor

from diptych.objectives.likelihood import average_views, paired_losses
from diptych.systems.uniperceiver.attributes import INPUTS, TARGETS, attributes
from diptych.systems.uniperceiver.captions import beam_search, caption_mask
from diptych.systems.uniperceiver.collate import pad_rows, share_of
from diptych.systems.uniperceiver.embed import halves, resize_frames, resize_grid, sine_grid
from diptych.systems.uniperceiver.layers import Sequences
from diptych.systems.uniperceiver.model import UniPerceiverModel


def check_embed(case: Case) -> list[Comparison]:
    """Compare embedded pictures, clips and texts, and the token that starts sequences."""
    net, given = load(case, partly=True).eval(), case.tensors
    text, visual = net.model.text, net.model.visual
    ids, caption = given["in.text"].long(), given["in.caption_text"].long()
    word = case.meta["config"]["tokenizer"]["special_ids"].get("word 'spe'")
    step = torch.tensor([5])
    found = {
        "image_embed": visual(given["in.image"]),
        "video_embed": visual(given["in.video"]),
        "text_embed": text(ids),
        "caption_text_embed": text(caption, halves(caption.shape[1], caption.device)),
        "spe_old": text.start(1),
        "text_embed_no_pos_type": text.norm(text.words(ids)),
    }
    for name in (n for n in given if n.startswith("out.text_embed_step")):
        step = torch.tensor([int(name.rpartition("step")[2])])
        found[name.removeprefix("out.")] = text(ids[:, : given[name].shape[1]], step)
    if word is not None:
        found["spe_new"] = text(torch.tensor([[word]]))
    return [
        output(name, value, given[f"out.{name}"]) for name, value in found.items() if f"out.{name}" in given
    ]


def check_positions(case: Case) -> list[Comparison]:
    """Compare fixed tables, and tables that are resized when weights are loaded."""
    given, done = case.tensors, []
    for name, expected in case.under("out.").items():
        if name.startswith("sincos."):
            parts = name.removeprefix("sincos.").split("_")
            width, side = int(parts[0][1:]), int(parts[1][1:])
            scale = int(parts[2][1:]) / int(parts[3]) if len(parts) > 2 else 1.0
            done.append(output(name, sine_grid(side, width, scale), expected))
        elif name.startswith("spatial_"):
            source = next(t for n, t in given.items() if n.startswith("in.spatial_"))
            done.append(output(name, resize_grid(source, round(len(expected) ** 0.5)), expected))
        else:
            source = next(t for n, t in given.items() if n.startswith("in.temporal_"))
            done.append(output(name, resize_frames(source, len(expected)), expected))
    return done


def _targets(net: Network, case: Case) -> Tensor:
    """Return the states of the case's targets, [C, S, D]."""
    return net.model.encode_targets(
        case.tensors["in.target_tokens"].long(), padding_of(case, "target"), _target_attributes(net.model)
    )


def _target_attributes(model: UniPerceiverModel, kind: str = "classes") -> Tensor | None:
    return attributes(TARGETS[kind]) if model.config.experts.layers != "none" else None


def _input_attributes(model: UniPerceiverModel, task: str) -> Tensor | None:
    return attributes(INPUTS[task]) if model.config.experts.layers != "none" else None


def _task_type(case: Case) -> str:
    return str(case.meta["task"]["DATASETS"]["TASK_TYPE"])


def check_classification(case: Case) -> list[Comparison]:
    """Classify pictures or clips by the likelihood of class names."""
    net, given, done = load(case), case.tensors, []
    model = net.model.eval()
    about = Sequences(attributes=_input_attributes(model, _task_type(case)))
    for training in (False, True):
        net.train(training)
        x = model.assemble([model.visual(given["in.pixels"])])
        states = model.encode(x, about)
        targets = _targets(net, case)
        logits = model.classify(states[:, 0], targets[:, 0], temperature_of(case))
        if not training:
            feature = model.likelihood.features(states[:, 0])
            found = {
                "fused_input": x,
                "layer0": model.layers[0](x, about),
                "encoded": states,
                "target_encoded": targets,
                "feat": feature,
            }
            done += [output(n, v, given[f"out.{n}"]) for n, v in found.items() if f"out.{n}" in given]
            done.append(_scaled_output("logits", logits, given["out.logits"]))
            if "out.view_avg_prob" in given:
                done.append(output("views", average_views(logits, len(logits)), given["out.view_avg_prob"]))
    labels = given["in.labels"]
    value = task_loss(case, logits, labels)
    done += recorded_losses(case, value, logits, labels)
    value.backward()
    return done + gradients(case, net)


def _scaled_output(what: str, ours: Tensor, expected: Tensor) -> Comparison:
    """Compare logits, which are cosines times a factor of up to 100, as cosines."""
    scale = max(float(expected.abs().max()), 1.0)
    return output(what, ours / scale, expected / scale)


def check_words(case: Case) -> list[Comparison]:
    """Find hidden words by the likelihood of all words."""
    net, given = load(case), case.tensors
    model = net.train().model
    ids, labels = given["in.text"].long(), given["in.labels"].long()
    padding = padding_of(case, "text")
    full = None if padding is None else F.pad(padding, (1, 0), value=False)
    about = Sequences(full, attributes=_input_attributes(model, "text_mlm"))
    states = model.encode(model.assemble([model.text(ids)]), about)[:, -ids.shape[1] :]
    asked = labels != -1
    logits = model.likelihood(
        model.likelihood.features(states[asked]), _vocabulary(model), temperature_of(case)
    )
    value = task_loss(case, logits, labels[asked])
    done = [
        _scaled_output("logits", logits, given["out.logits"]),
        exact("targets", labels[asked], given["out.targets"]),
        *recorded_losses(case, value, logits, labels[asked]),
    ]
    value.backward()
    return done + gradients(case, net)


def _vocabulary(model: UniPerceiverModel) -> Tensor:
    """Return the features of all words [V, D]: each with an end token behind it."""
    words = torch.arange(model.config.vocab_size)
    ids = torch.stack([words, torch.full_like(words, model.config.end)], 1)
    states = model.encode_targets(ids, attributes=_target_attributes(model, "vocabulary"))
    return model.likelihood.features(states[:, 0])


def check_slots(case: Case) -> list[Comparison]:
    """Answer where the text has a slot: questions about pictures, and sentences."""
    net, given, done = load(case), case.tensors, []
    model = net.model
    ids, labels = given["in.text"].long(), given["in.labels"]
    padding = padding_of(case, "text")
    for training in (False, True):
        net.train(training)
        parts = [model.visual(given["in.pixels"])] if "in.pixels" in given else []
        x = model.assemble([*parts, model.text(ids)])
        full = None if padding is None else F.pad(padding, (x.shape[1] - ids.shape[1], 0), value=False)
        states = model.encode(x, Sequences(full))[:, -ids.shape[1] :]
        query = states[torch.arange(len(ids)), given["in.spe_index"].long()]
        targets = _targets(net, case)
        logits = model.classify(query, targets[:, 0], temperature_of(case))
        if not training:
            done.append(output("feature", model.likelihood.features(query), given["out.feat"]))
            done.append(_scaled_output("logits", logits, given["out.logits"]))
    value = task_loss(case, logits, labels)
    done += recorded_losses(case, value, logits, labels)
    value.backward()
    return done + gradients(case, net)


def check_pairs(case: Case) -> list[Comparison]:
    """Compare pictures or clips with texts, both ways; rank a gallery."""
    net, given = load(case), case.tensors
    model = net.train().model
    seen, read = _pair_features(net, case, "text")
    logits = model.likelihood(seen, read, temperature_of(case))
    _, smoothing, weight = rule_of(case)
    both = paired_losses(logits, smoothing)
    done = [
        _scaled_output("i2t", logits, given["out.logits_i2t"]),
        _scaled_output("t2i", logits.t(), given["out.logits_t2i"]),
    ]
    labels = torch.arange(len(logits))
    for name, expected in case.under("out.loss.").items():
        if name == "null_loss":
            continue
        way = 0 if "i2t" in name else 1
        if name.startswith("Accuracy"):
            hits = ((logits if way == 0 else logits.t()).argmax(1) == labels).float().mean()
            done.append(loss(name, hits * (100.0 if float(expected) > 1 else 1.0), expected))
        else:
            done.append(loss(name, weight * both[way], expected))
    (weight * (both[0] + both[1])).backward()
    done += gradients(case, net)
    with torch.no_grad():
        net.eval()
        gallery = [F.normalize(f, dim=-1) for f in _pair_features(net, case, "eval_text")]
    done += [
        output("visual features", gallery[0], given["out.eval_visual_feat"]),
        output("text features", gallery[1], given["out.eval_text_feat"]),
    ]
    return done + _recalls(case, gallery[0] @ gallery[1].t())


def _pair_features(net: Network, case: Case, texts: str) -> tuple[Tensor, Tensor]:
    model, given = net.model, case.tensors
    about = Sequences(attributes=_input_attributes(model, _task_type(case)))
    seen = model.encode(model.assemble([model.visual(given["in.pixels"])]), about)[:, 0]
    read = model.encode_targets(
        given[f"in.{texts}"].long(), padding_of(case, texts), _target_attributes(model, "captions")
    )[:, 0]
    return model.likelihood.features(seen), model.likelihood.features(read)


_PUBLISHED_CHUNK = 4


def _recalls(case: Case, scores: Tensor) -> list[Comparison]:
    """Compare recall in percent; of a picture the best of its captions counts.

    The published metric leaves ranks as they began where a gallery has fewer texts than are scored at a
    time (here 4): such figures say nothing and are not compared.
    """
    if scores.shape[1] < _PUBLISHED_CHUNK:
        return []
    each, done = int(case.meta["captions_per_image"]), []
    image = torch.arange(scores.shape[1]) // each
    by_picture = (scores > scores.gather(1, _best(scores, image)[:, None])).sum(1)
    by_text = (scores.t() > scores.t().gather(1, image[:, None])).sum(1)
    for way, ranks in (("i2t", by_picture), ("t2i", by_text)):
        values = {f"{way}-r{k}": float((ranks < k).float().mean()) * 100 for k in (1, 5, 10)}
        values[f"{way}-rmean"] = sum(values.values()) / 3
        expected = case.meta["retrieval_metrics"]
        done += [loss(name, value, expected[name]) for name, value in values.items() if name in expected]
    return done


def _best(scores: Tensor, image: Tensor) -> Tensor:
    """Return the best of each picture's own captions, [N] int64."""
    own = image[None] == torch.arange(len(scores))[:, None]
    return scores.masked_fill(~own, float("-inf")).argmax(1)


def check_prompts(case: Case) -> list[Comparison]:
    """Classify with prompts; only what is tuned gets gradients."""
    net, given, done = load(case), case.tensors, []
    model = net.model
    for training in (False, True):
        net.train(training)
        states = model.encode(model.assemble([model.visual(given["in.pixels"])]))
        logits = model.classify(states[:, 0], _targets(net, case)[:, 0], temperature_of(case))
        if not training:
            done.append(output("feature", model.likelihood.features(states[:, 0]), given["out.feat"]))
            done.append(_scaled_output("logits", logits, given["out.logits"]))
    labels = given["in.labels"]
    value = task_loss(case, logits, labels)
    done += recorded_losses(case, value, logits, labels)
    value.backward()
    return done + gradients(case, net)


def check_captions(case: Case) -> list[Comparison]:
    """Train on captions, then write them by beam search."""
    net, given = load(case), case.tensors
    model = net.model
    if model.config.experts.layers != "none":
        # Recorded without noise on the gates.
        model.apply(lambda m: setattr(m, "config", m.config.with_(noise=0.0)) if hasattr(m, "tag") else None)
    net.train()
    ids, labels = given["in.text"].long(), given["in.labels"].long()
    half = ids.shape[1] // 2
    visual = model.visual(given["in.pixels"])
    x = model.assemble([visual, model.text(ids, halves(ids.shape[1], ids.device))])
    prefix = 1 + visual.shape[1]
    mask = caption_mask(prefix, half)
    padding = padding_of(case, "text")
    full = None if padding is None else F.pad(padding, (prefix, 0), value=False)
    task = _task_type(case)
    about = Sequences(full, mask, _input_attributes(model, task), prefix)
    states = model.encode(x, about)
    asked = labels != -1
    slots = states[:, -half:][asked]
    words = _vocabulary(model)
    name = temperature_of(case)
    logits = model.likelihood(model.likelihood.features(slots), words, name)
    value = task_loss(case, logits, labels[asked])
    done = [
        exact("mask", mask, given["out.attn_mask"]),
        output("input", x, given["out.fused_input"]),
        _real("states", states, given["out.encoded"], full),
        _scaled_output("logits", logits, given["out.train_logits"]),
        exact("targets", labels[asked], given["out.train_targets"]),
        *recorded_losses(case, value, logits, labels[asked]),
    ]
    value.backward()
    done += gradients(case, net)
    net.eval()
    with torch.no_grad():
        words, visual = _vocabulary(model), model.visual(given["in.pixels"])
    for beam in case.meta["beams"]:
        found = beam_search(
            model,
            visual,
            words,
            beams=beam["beam"],
            steps=beam["max_len"],
            penalty=beam["len_penalty"],
            temperature=name,
            attributes=_input_attributes(model, task),
        )
        done.append(exact(f"{beam['key']}: words", found.ids, given[f"out.beam_ids.{beam['key']}"]))
        done.append(
            output(f"{beam['key']}: log p", found.log_probs / 10, given[f"out.beam_logp.{beam['key']}"] / 10)
        )
    return done


def _real(what: str, ours: Tensor, expected: Tensor, padding: Tensor | None) -> Comparison:
    """Compare states of what is no padding."""
    if padding is None:
        return output(what, ours, expected)
    return output(what, ours[~padding], expected[~padding])


def check_collation(case: Case) -> list[Comparison]:
    """Compare padded captions, target sets, their shares for ranks, and the table of attributes."""
    meta, given = case.meta, case.tensors
    slot_ids = [[given_slot(case)] * len(c) for c in meta["captions"]]
    ids, padding = pad_rows(meta["captions"])
    slots, slot_padding = pad_rows(slot_ids)
    targets, target_padding = pad_rows(meta["target_set_rows"])
    done = [
        exact("text", torch.cat([ids, slots], 1), given["out.text"].long()),
        exact("padding", torch.cat([padding, slot_padding], 1).long(), given["out.text_invalid"].long()),
        exact("labels", pad_rows(meta["captions"], -1)[0], given["out.targets"].long()),
        exact("target set", targets, given["out.targetset_tokens"].long()),
        exact("its padding", target_padding.long(), given["out.targetset_invalid"].long()),
    ]
    world = len(meta["target_shards_world3"])
    for rank, share in meta["target_shards_world3"].items():
        rows = share_of(meta["target_set_rows"], int(rank), world)
        done.append(exact(f"rank {rank}", rows, share["rows"]))
    kinds = {"Vocab_Word": "vocabulary"}
    for name, rows in meta["attribute_table"].items():
        if isinstance(rows, dict):
            done.append(exact(name, attributes(INPUTS[name]).tolist(), rows["input"]))
            if "target" in rows:
                done.append(exact(f"{name} target", attributes(TARGETS["captions"]).tolist(), rows["target"]))
        else:
            kind = "glue" if name.endswith("-target") else kinds.get(name, "classes")
            done.append(exact(name, attributes(TARGETS[kind]).tolist(), rows))
    return done


def given_slot(case: Case) -> int:
    """Return the id of the slot token that the case was made with: what stands behind the captions."""
    text, invalid = case.tensors["out.text"], case.tensors["out.text_invalid"]
    half = text.shape[1] // 2
    return int(text[:, half:][invalid[:, half:] == 0][0])


__all__ = [name for name in globals() if name.startswith("check_")] + ["gradient"]
