"""A training step of SOHO computed as published: everything for every text, at every position.

It reads the weights of a task of ours and gives the same losses; `soho.py` measures it. Linear layers are
torch's own, and pictures lie channel by channel, as published.

Legend: B pictures, G texts a picture, R = B G rows, L text tokens, P image tokens, D width, K entries.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.blocks.bert import BertLayer
from diptych.blocks.dictionary import VisualDictionary
from diptych.blocks.sine import sine_positions
from diptych.objectives.matching import IGNORED
from diptych.systems.soho.masking import Shown
from diptych.systems.soho.neck import token_mask
from diptych.systems.soho.pretrain import SohoPretrainTask


def straightforward(
    task: SohoPretrainTask,
    images: Tensor,
    sizes: Tensor,
    shown: Shown,
    hide: Callable[[Tensor], Tensor],
    *,
    recompute: bool,
) -> dict[str, Tensor]:
    """Return the losses `mlm`, `mvm` and `itm`.

    Args:
        task: ours, whose weights and buffers are used and updated.
        images: normalised pictures [B, 3, H, W].
        sizes: [B, 2] int64, height and width of each.
        shown: the texts.
        hide: returns [R, P] bool for the visual words [B, P] of the pictures.
        recompute: run the layers of the transformer again in the backward pass, as published (the CNN does
            so where its configuration says it).
    """
    model, rows = task.model, shown.pictures
    maps = model.backbone(images.contiguous())[rows]  # the map once for every text
    frame = (images.shape[2], images.shape[3])
    tokens, mask, words, hidden = neck(task, maps, sizes[rows], frame, len(rows) // len(images), hide)
    x = torch.cat([model.text(shown.ids), tokens], 1)
    bias = (1 - torch.cat([shown.mask, mask], 1).float())[:, None, None] * -10000.0
    for layer in model.layers:
        assert isinstance(layer, BertLayer)
        x = checkpoint(bert, layer, x, bias, use_reentrant=False) if recompute else bert(layer, x, bias)
    L = shown.ids.shape[1]
    text, visual = x[:, :L], x[:, L:]
    logits = F.linear(text, model.text.words.weight)  # [R, L, V]
    codes = model.neck.dictionary.codes
    cosines = F.linear(F.normalize(visual, dim=-1), F.normalize(codes, dim=-1))  # [R, P, K]
    return {
        "mlm": labelled(logits, shown.targets),
        "mvm": labelled(cosines, words.masked_fill(~hidden, IGNORED)),
        "itm": F.cross_entropy(task.itm(x[:, 0]), shown.matching),
    }


def neck(
    task: SohoPretrainTask,
    maps: Tensor,
    sizes: Tensor,
    frame: tuple[int, int],
    texts: int,
    hide: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn maps [R, C, 2h, 2w] into tokens [R, P, D], and mask, visual words, hidden places [R, P]."""
    part = task.model.neck
    assert part.align is not None
    v = part.bn(part.conv(F.max_pool2d(maps, 2, 2)))
    R, D, h, w = v.shape
    flat = v.flatten(2).transpose(1, 2).reshape(-1, D)
    quantised, indices = dictionary(part.dictionary, flat)
    a = part.align(quantised).view(R, h, w, D).permute(0, 3, 1, 2)
    gate = part.gate_bn(part.gate(torch.cat([a, v], 1))).softmax(1)
    z = (gate[:, :1] * a + gate[:, 1:] * v).flatten(2).transpose(1, 2)
    mask = token_mask(sizes, frame, (h, w), published=task.model.config.mask == "published")
    words = indices.view(R, h * w).masked_fill(~mask.flatten(1), IGNORED)
    hidden = hide(words[::texts])
    z = torch.where(hidden[..., None], part.hidden_token, z)
    return part.norm(z + sine_positions(mask, D).flatten(1, 2)), mask.flatten(1), words, hidden


def dictionary(part: VisualDictionary, x: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise [N, D] with one-hot matrices, and update the dictionary."""
    with torch.no_grad():
        distances = x.pow(2).sum(1, keepdim=True) + part.codes.pow(2).sum(1) - 2 * x @ part.codes.t()
        indices = distances.argmin(1)
        one_hot = F.one_hot(indices, len(part.codes)).to(x.dtype)
        part.totals += one_hot.sum(0)
        decay, eps = part.config.decay, part.config.eps
        part.sizes.mul_(decay).add_((1 - decay) * one_hot.sum(0))
        part.sums.mul_(decay).add_((1 - decay) * (one_hot.t() @ x))
        total = part.sizes.sum()
        smooth = (part.sizes + eps) / (total + len(part.codes) * eps) * total
        part.codes.copy_(part.sums / smooth[:, None])
        quantised = F.embedding(indices, part.codes)
    return x + (quantised - x).detach(), indices


def bert(layer: BertLayer, x: Tensor, bias: Tensor) -> Tensor:
    """Return the next states with attention written out; `bias` [R, 1, 1, S] is added to its scores."""
    R, S, D = x.shape
    q, k, v = (
        plain(part, x).view(R, S, layer.heads, -1).transpose(1, 2)
        for part in (layer.query, layer.key, layer.value)
    )
    weights = (q @ k.transpose(2, 3) / math.sqrt(D // layer.heads) + bias).softmax(3)
    read = (weights @ v).transpose(1, 2).reshape(R, S, D)
    x = layer.norm(x + plain(layer.proj, read))
    out: Tensor = layer.ffn_norm(x + plain(layer.fc2, F.gelu(plain(layer.fc1, x))))
    return out


def plain(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return what torch's own linear layer returns."""
    return F.linear(x, layer.weight, layer.bias)


def labelled(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of [R, T, V] where the targets [R, T] say something."""
    every = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return every / ((targets != IGNORED).sum() + 1e-6)
