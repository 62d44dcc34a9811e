"""Checkpoints in the published layout of InternLM-XComposer2-4KHD: to exports and back, and from a folder."""

import json
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers
from torch import Tensor
from typer.testing import CliRunner

from diptych.cli.convert import register
from diptych.data.chat import ChatTokenizer
from diptych.data.conversations import Conversation, Message, Part
from diptych.errors import CheckpointError, DataError, UsageError
from diptych.systems.importing import ImportOptions
from diptych.systems.mllm.hugging_face import quiet
from diptych.systems.mllm.ixc import CONVERTER, LANGUAGE, VISION, read_tokenizer
from diptych.train.published import import_to, load_published, publish_to

WIDTH, INNER, WORDS, LAYERS, RANK = 256, 24, 40, 2, 3  # two query heads of 128 and one key-value head
SEEN, PATCH, GRID = 64, 7, 4


def published(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return random weights of a small model under the published names."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * 0.1).to(dtype)

    state = {
        "model.tok_embeddings.weight": draw(WORDS, WIDTH),
        "model.norm.weight": draw(WIDTH),
        "output.weight": draw(WORDS, WIDTH),
        "vision_proj.0.weight": draw(WIDTH, 4 * SEEN),
        "vision_proj.0.bias": draw(WIDTH),
        "vision_proj.2.weight": draw(WIDTH, WIDTH),
        "vision_proj.2.bias": draw(WIDTH),
        "plora_glb_GN": draw(1, 1, 4 * SEEN),
        "plora_sub_GN": draw(1, 1, 1, 4 * SEEN),
    }
    linear = {
        "attention.wqkv": (2 * WIDTH, WIDTH),
        "attention.wo": (WIDTH, WIDTH),
        "feed_forward.w1": (INNER, WIDTH),
        "feed_forward.w3": (INNER, WIDTH),
        "feed_forward.w2": (WIDTH, INNER),
    }
    for block in (f"model.layers.{i}." for i in range(LAYERS)):
        for name, (out, inside) in linear.items():
            state[f"{block}{name}.weight"] = draw(out, inside)
            state[f"{block}{name}.Plora_A.weight"] = draw(RANK, inside)
            state[f"{block}{name}.Plora_B.weight"] = draw(out, RANK)
        state |= {f"{block}{norm}.weight": draw(WIDTH) for norm in ("attention_norm", "ffn_norm")}
    tower = "vit.vision_tower.vision_model."
    state |= {
        f"{tower}embeddings.class_embedding": draw(SEEN),
        f"{tower}embeddings.patch_embedding.weight": draw(SEEN, 3, PATCH, PATCH),
        f"{tower}embeddings.position_embedding.weight": draw(GRID**2 + 1, SEEN),
        f"{tower}embeddings.position_ids": torch.arange(GRID**2 + 1)[None],
    }
    for norm in (
        "pre_layrnorm",
        "post_layernorm",
        "encoder.layers.0.layer_norm1",
        "encoder.layers.0.layer_norm2",
    ):
        state |= {f"{tower}{norm}.{part}": draw(SEEN) for part in ("weight", "bias")}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        state[f"{tower}encoder.layers.0.{name}.weight"] = draw(SEEN, SEEN)
        state[f"{tower}encoder.layers.0.{name}.bias"] = draw(SEEN)
    state[f"{tower}encoder.layers.0.mlp.fc1.weight"], state[f"{tower}encoder.layers.0.mlp.fc1.bias"] = (
        draw(32, SEEN),
        draw(32),
    )
    state[f"{tower}encoder.layers.0.mlp.fc2.weight"], state[f"{tower}encoder.layers.0.mlp.fc2.bias"] = (
        draw(SEEN, 32),
        draw(SEEN),
    )
    return state


def folder(where: Path, told: dict[str, object] | None = None) -> Path:
    """Write a checkpoint in two files, as transformers cuts large ones."""
    where.mkdir()
    state = published()
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: state[name] for name in part}, where / f"model-{number:05d}-of-00002.safetensors")
    if told is not None:
        (where / "config.json").write_text(json.dumps(told))
    return where


def tokenizer_file(where: Path) -> Path:
    """Write a tokenizer of single letters with the special pieces of InternLM2 as plain words."""
    pieces = ["<unk>", "<s>", "</s>", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]", "▁", "\n", *"useraitnhc?."]
    words = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    raw = RawTokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.save(str(where))
    return where


def read(path: Path, heads: int | None = None) -> tuple[dict, dict[str, Tensor], list[str]]:
    return CONVERTER.read(path, ImportOptions(attention_heads=heads))


def test_settings_are_read_off_the_tensors(tmp_path: Path) -> None:
    settings, state, ignored = read(
        folder(tmp_path / "hub", {"rms_norm_eps": 1e-6, "num_attention_heads": 2})
    )
    system = settings["system"]
    assert settings["task"] == {"name": "instruct"}
    assert settings["data"]["image"]["size"] == 28
    assert system["tiling"]["kind"] == "hd"
    assert (system["tiling"]["tile"], system["connector"]["merge"]) == (28, 2)
    language = system["language"]
    assert language["settings"]["num_key_value_heads"] == 1
    assert language["settings"]["rms_norm_eps"] == 1e-6
    assert language["plora"] | {"names": ()} == {
        "rank": 3,
        "alpha": 3.0,
        "dropout": 0.05,
        "names": (),
        "shared": True,
    }
    assert (language["template"], language["learn_rest"], language["dtype"]) == ("internlm", True, "fp32")
    vision = system["vision"]["settings"]
    assert (vision["num_hidden_layers"], vision["num_attention_heads"], vision["patch_size"]) == (1, 1, 7)
    # What the layer that counts does not need.
    assert [name.rpartition("vision_model.")[2] for name in ignored] == [
        "embeddings.position_ids",
        "post_layernorm.bias",
        "post_layernorm.weight",
    ]
    assert state["model.connector.newline"].shape == (4 * SEEN,)


def test_one_file_without_settings_has_heads_of_the_published_width(tmp_path: Path) -> None:
    save_file(published(torch.bfloat16), tmp_path / "all.safetensors")
    system = read(tmp_path / "all.safetensors")[0]["system"]
    assert system["language"]["settings"]["num_attention_heads"] == 2
    assert system["language"]["settings"]["rope_parameters"]["rope_theta"] == 1e6
    assert system["language"]["dtype"] == "bf16"
    # Heads of 64: 512 rows are 4 queries, 2 keys and 2 values.
    told = read(tmp_path / "all.safetensors", 4)[0]["system"]["language"]["settings"]
    assert (told["num_attention_heads"], told["num_key_value_heads"]) == (4, 2)


def test_there_and_back_again(tmp_path: Path) -> None:
    source, export, back = folder(tmp_path / "hub"), tmp_path / "export", tmp_path / "back.safetensors"
    ignored = import_to("ixc2-4khd", source, export, tokenizer_file(tmp_path / "t.json"), ImportOptions())
    assert publish_to("ixc2-4khd", export, back) == []
    found, original = load_file(back), published()
    assert sorted(original.keys() - found.keys()) == ignored
    assert found.keys() <= original.keys()
    assert all(torch.equal(found[name], original[name]) for name in found)


def test_the_converted_model_answers(tmp_path: Path) -> None:
    source, tokenizer = folder(tmp_path / "hub"), tokenizer_file(tmp_path / "t.json")
    config, task = load_published("ixc2-4khd", source, tokenizer, ImportOptions())
    own = task.state_dict()
    original = published()
    wo = f"{LANGUAGE}model.layers.1.self_attn.o_proj."
    assert torch.equal(own[f"{wo}base.weight"], original["model.layers.1.attention.wo.weight"])
    assert torch.equal(own[f"{wo}up.weight"], original["model.layers.1.attention.wo.Plora_B.weight"])
    first = "embeddings.class_embedding"
    assert torch.equal(own[VISION + first], original[f"vit.vision_tower.vision_model.{first}"])
    # Eight tiles and the whole view of a wide picture: 2 x 2 tokens each.
    grid = (2, 4)
    views = torch.randint(0, 256, (9, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        tokens = task.model.see(views, [grid])
    assert tokens.shape == (9 * 4 + 1 + 3 * 2, WIDTH)
    assert bool(tokens.isfinite().all())
    assert config.system.name == "mllm"


def test_a_text_is_written_as_published(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_file(tmp_path / "t.json"))
    talk = Conversation((Message.of("user", Part("image"), "ha?"), Message.of("assistant", "cat.")))
    marked = "[UNUSED_TOKEN_146]user\n<|picture|>ha?[UNUSED_TOKEN_145]\n"
    answer = "[UNUSED_TOKEN_146]assistant\ncat.[UNUSED_TOKEN_145]\n</s>"
    assert tokenizer.render(talk) == f"<s>{marked}{answer}"
    found = tokenizer.encode_chat(talk, [2])
    learned = tokenizer.decode([i for i, counts in zip(found.ids, found.learned, strict=True) if counts])
    assert found.ids[0] == 1
    assert found.ids.count(tokenizer.picture_id) == 2
    assert learned.replace(" ", "").startswith("cat.")
    assert found.ids[-1] == 2
    assert found.learned[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.0.attention.wqkv.weight": None}, r"no model\.layers\.0\.attention\.wqkv\.weight"),
        ({"model.layers.0.attention.wqkv.weight": torch.zeros(500, WIDTH)}, "give --attention-heads"),
        ({"vision_proj.0.weight": None}, r"vision_proj\.0\.weight is missing"),
        ({"model.layers.1.ffn_norm.weight": None}, r"1 tensors missing.*layers\.1\.post_attention_layernorm"),
    ],
)
def test_files_that_are_something_else(
    change: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {n: t for n, t in {**published(), **change}.items() if t is not None}
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "m.safetensors")


def test_wrong_folders_and_options(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no files of weights"):
        read(tmp_path)
    scaled = folder(tmp_path / "hub", {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    with pytest.raises(CheckpointError, match="rope_scaling"):
        read(scaled)
    with pytest.raises(UsageError, match="image size"):
        CONVERTER.read(scaled, ImportOptions(image_size=224))
    raw = RawTokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    raw.save(str(tmp_path / "t.json"))
    with pytest.raises(DataError, match="expected the tokenizer of InternLM2"):
        read_tokenizer(tmp_path / "t.json")


def test_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)  # one command alone would lose its name
    register(app)
    source, out = folder(tmp_path / "hub"), tmp_path / "export"
    tokenizer = tokenizer_file(tmp_path / "t.json")
    words = ["convert", "ixc2-4khd", str(source), str(out), "--tokenizer", str(tokenizer)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert (out / "tokenizer" / "chat_template.jinja").read_text().startswith("{{- bos_token -}}")
    assert (out / "model.yaml").exists()


def test_internlm2_becomes_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    plain = {n: t for n, t in published().items() if n.startswith(("model.", "output")) and "Plora" not in n}
    save_file(plain, tmp_path / "m.safetensors")
    tokenizer, out = tokenizer_file(tmp_path / "t.json"), tmp_path / "llama"
    assert import_to("internlm2", tmp_path / "m.safetensors", out, tokenizer, ImportOptions()) == []
    with quiet():
        model, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_key_value_heads == 1
    expected = plain["model.layers.1.feed_forward.w3.weight"]
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, expected)
    assert (
        ChatTokenizer.from_folder(out)
        .render(Conversation((Message.of("user", "ha"),)), answer=True)
        .endswith("[UNUSED_TOKEN_146]assistant\n")
    )
    save_file(published(), tmp_path / "whole.safetensors")
    with pytest.raises(CheckpointError, match="has partial LoRA"):
        import_to("internlm2", tmp_path / "whole.safetensors", out, None, ImportOptions())
    with pytest.raises(UsageError, match="a language model alone"):
        load_published("internlm2", tmp_path / "m.safetensors", tokenizer, ImportOptions())
