"""The first stage: what is contrasted, by hand; and that it reaches encoder and projector alone."""

import math

import pytest
import torch
from tests.mllm.mllm_toy import WORDS, questions, toy_task

from diptych.data.text import Tokenizer
from diptych.errors import DataError
from diptych.systems.mllm.words import WordsConfig, WordsTask, _against


def test_each_pair_is_told_from_what_does_not_belong():
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    there = torch.tensor([[True, True, False], [False, True, False]])

    def loss(own, others):
        return -own + math.log(math.exp(own) + sum(map(math.exp, others)))

    expected = (loss(2, [0]) + loss(1, [0]) + loss(3, [0, 1])) / 3
    assert _against(scores, there).item() == pytest.approx(expected, abs=1e-6)


def batch_of(texts):
    batch = questions(len(texts))
    return type(batch)(batch.keys, batch.positions, batch.match_ids, batch.images, texts=texts)


def task():
    model = toy_task().model
    model.requires_grad_(True)
    return WordsTask(model, WordsConfig(), Tokenizer.train(WORDS, 60))


def test_words_that_all_captions_have_tell_nothing():
    stage = task()
    words, there = stage._words(batch_of(["the cat red", "the cat blue", "the dog red"]))
    named = [stage.tokenizer.decode([i]).strip() for i in words.tolist()]
    table = dict(zip(named, there.T.tolist(), strict=True))
    assert table["red"] == [True, False, True]
    assert table["dog"] == [False, False, True]
    assert "the" not in table
    with pytest.raises(DataError, match="the same words"):
        stage._words(batch_of(["the cat", "the cat"]))


def test_gradients_reach_encoder_and_projector_alone():
    stage = task()
    stage.compute_loss(batch_of(["red cat", "blue dog", "no"]), None).total.backward()
    trained = {name.split(".")[1] for name, p in stage.named_parameters() if p.grad is not None}
    assert trained == {"vision", "connector"}
