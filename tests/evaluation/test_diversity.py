"""Diversity by hand, and against transformers and peft asked directly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from hpcmaf.debate.methods import Society
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.engines.base import ServedModels
from hpcmaf.evaluation.diversity import dissimilarity, embed, kl_between, kl_to_base, measure, nll_under_others
from hpcmaf.micro import base_path
from hpcmaf.tasks.problems import Problem
from tests.tiny_models import tiny_adapter, tiny_tokenizer


def test_dissimilarity_by_hand() -> None:
    vectors = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 2.0]])
    half = 2**-0.5
    assert dissimilarity(vectors) == pytest.approx((1 + 2 * (1 - half)) / 3)
    assert dissimilarity(vectors[:2]) == pytest.approx(1.0)
    assert dissimilarity(np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])) == pytest.approx(2.0)  # the mute is no pair
    assert dissimilarity(np.array([[5.0, 1.0]])) is None


def test_likelihoods_by_hand() -> None:
    # Two responses, of two tokens and of one; agent 1 is the base.
    found = {(0, 0): (-1.0, -2.0), (1, 0): (-3.0, -4.0), (0, 1): (-6.0,), (1, 1): (-0.5,)}
    found |= {(None, i): found[1, i] for i in (0, 1)}
    assert nll_under_others(found) == pytest.approx((6.0 + 3.5) / 2)
    assert kl_between(found) == pytest.approx((2.0 + 5.5) / 2)
    assert kl_to_base(found) == pytest.approx((2.0 + 0.0) / 2)
    # What was not scored is left out.
    found = {(0, 0): (-1.0,), (1, 0): (-2.0,), (None, 0): (-1.5,)}
    assert (kl_between(found), nll_under_others(found), kl_to_base(found)) == (None, None, 0.5)
    assert kl_to_base({}) is None

# Answers in the micro model's own language, of different lengths, one cut off, one empty.
FIRST = [("12*3=36;5+36=41#41", "stop"), ("5+36=41#41", "stop"), ("12*3=35;5+35#40", "stop")]
LAST = [("5+36=41#41", "stop"), ("12*3=36;5+36=4", "length"), ("", "stop")]


def debates() -> list[Transcript]:
    made = []
    for i, answers in enumerate((["41", "41", None], ["40", "41", "41"])):
        turns = [
            tuple(
                Utterance("answer", m, n, f"prompt {i} {m}", text, answer, finish_reason=reason)  # type: ignore[arg-type]
                for n, ((text, reason), answer) in enumerate(zip(said, answers, strict=True))
            )
            for m, said in enumerate((FIRST[i:] + FIRST[:i], LAST[i:] + LAST[:i]), start=1)
        ]
        made.append(Transcript(Problem(f"p{i}", "5+12*3"), tuple(turns)))
    return made


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three critics that differ visibly from the micro base and from each other."""
    folder = tmp_path_factory.mktemp("adapters")
    return {f"critic-{n}": str(tiny_adapter(base_path(), folder / f"critic-{n}", seed=n)) for n in range(3)}


def directly(transcript: Transcript, agent: int, adapter: str | None) -> list[float]:
    """Log-likelihoods of the final response's tokens: one text, one model, no engine, no batch."""
    tokenizer = AutoTokenizer.from_pretrained(str(base_path()))
    model = AutoModelForCausalLM.from_pretrained(str(base_path()), dtype="float32")
    model = PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()
    chat = transcript.conversation(agent, 2)

    def ids(messages: list[Any], prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    start = ids(chat[:-1], True)
    answer = tokenizer(chat[-1]["content"], add_special_tokens=False)["input_ids"]
    if transcript.answers[-1][agent].finish_reason == "stop":
        answer = answer + [ids(chat, False)[len(start) + len(answer)]]
    whole = torch.tensor([start + answer])
    with torch.inference_mode():
        values = model(whole).logits[0].double().log_softmax(-1)
    return [values[len(start) + k - 1, token].item() for k, token in enumerate(answer)]


@pytest.mark.slow
def test_measures_are_those_of_transformers(adapters: dict[str, str]) -> None:
    from transformers import AutoModel, AutoTokenizer

    base = str(base_path())
    served = ServedModels(base, "lora", adapters, dtype="float32")
    value = measure(debates(), [served], Society.of(3, list(adapters)), iteration=1, device="cpu")
    assert (value["problems"], value["unscored"], value["encoder"]) == (2, 0, None)

    expected: dict[str, list[float]] = {"nll": [], "kl_agents": [], "kl_base": []}
    for one in debates():
        table = {(j, i): directly(one, i, adapters[f"critic-{j}"]) for j in range(3) for i in range(3)}
        plain = [directly(one, i, None) for i in range(3)]
        others = [[value for i in range(3) if i != j for value in table[j, i]] for j in range(3)]
        expected["nll"].append(np.mean([-np.mean(values) for values in others]))
        gaps = [np.mean(np.subtract(table[i, i], table[j, i])) for i in range(3) for j in range(3) if i != j]
        expected["kl_agents"].append(np.mean(gaps))
        expected["kl_base"].append(np.mean([np.mean(np.subtract(table[i, i], plain[i])) for i in range(3)]))
    for name, values in expected.items():
        assert value["measures"][name]["value"] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-5), name
        assert value["measures"][name]["se"] == pytest.approx(np.std(values) / 2**0.5, rel=1e-3, abs=1e-5), name
        assert abs(value["measures"][name]["value"]) > 0.01, name  # something was there to be measured

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base, dtype="float32").eval()

    def vector(text: str) -> np.ndarray:
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()

    a, b = vector(LAST[0][0]), vector(LAST[1][0])  # the third is empty
    gap = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert gap > 0.01
    assert value["measures"]["embedding"]["value"] == pytest.approx(gap, abs=1e-4)


@pytest.mark.slow
def test_the_untouched_base_does_not_diverge_from_itself() -> None:
    served = ServedModels(str(base_path()), "lora", {}, dtype="float32")
    long = replace(debates()[0].answers[-1][0], text="1+" * 4000)
    one = debates()[0]
    one = replace(one, answers=(one.answers[0], (long, *one.answers[1][1:])))
    value = measure([one], [served], Society.of(3, []), iteration=0, device="cpu")
    assert value["measures"]["kl_agents"]["value"] == value["measures"]["kl_base"]["value"] == 0.0
    assert value["measures"]["nll"]["value"] > 0
    assert value["unscored"] == 1  # it does not fit the context, and says so


@pytest.mark.slow
def test_a_sentence_encoder_of_two_halves(tmp_path: Path) -> None:
    """T5, as in the paper: the encoder's states, without the decoder."""
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    tokenizer = tiny_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a", "", "longer than the others", "abc"]
    vectors = embed(texts, str(tmp_path), torch.device("cpu"))
    direct = T5EncoderModel.from_pretrained(tmp_path).eval()
    for text, vector in zip(texts, vectors, strict=True):
        if not text:
            assert not vector.any()
            continue
        with torch.inference_mode():
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            assert vector == pytest.approx(direct(input_ids=ids).last_hidden_state[0].mean(0).numpy(), abs=1e-5)
