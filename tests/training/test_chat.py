"""Training sees the tokens that generation sees."""

from __future__ import annotations

import pytest

from hpcmaf.chat import ChatFormat
from hpcmaf.errors import EngineError
from tests.training.models import BOS_TEMPLATE, END_TEMPLATE, make_tokenizer

pytestmark = pytest.mark.slow  # imports transformers

CHAT = [
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": "sure?"},
    {"role": "assistant", "content": "no: 4"},
]
KINDS = [
    pytest.param(template, adds_bos, id=f"{name}-{'bos' if adds_bos else 'plain'}")
    for name, template in (("bos-template", BOS_TEMPLATE), ("end-template", END_TEMPLATE), ("no-template", None))
    for adds_bos in (True, False)
]


@pytest.mark.parametrize(("template", "adds_bos"), KINDS)
def test_trained_text_is_the_prompt_then_the_answer_then_the_stop(template, adds_bos):
    chat = ChatFormat(make_tokenizer(template, adds_bos=adds_bos))
    sample = chat.sample(CHAT)
    prompt = chat.prompt_ids(CHAT[:-1])
    assert sample.input_ids[: len(prompt)] == prompt
    assert sample.target == [False] * len(prompt) + [True] * (len(sample.input_ids) - len(prompt))
    target = sample.input_ids[len(prompt) :]
    assert chat.decode(target).strip() == "no: 4"
    # Generation stops at the last trained token, and at none before it.
    assert target[-1] in chat.stop_ids and not set(target[:-1]) & set(chat.stop_ids)


@pytest.mark.parametrize(("template", "adds_bos"), KINDS)
def test_at_most_one_bos(template, adds_bos):
    chat = ChatFormat(make_tokenizer(template, adds_bos=adds_bos))
    count = chat.prompt_ids(CHAT[:1]).count(chat.tokenizer.bos_token_id)
    assert count == (1 if adds_bos or template == BOS_TEMPLATE else 0)
    assert chat.sample(CHAT).input_ids.count(chat.tokenizer.bos_token_id) == count


@pytest.mark.parametrize(("template", "adds_bos"), KINDS)
def test_all_turns_takes_every_answer_and_nothing_else(template, adds_bos):
    chat = ChatFormat(make_tokenizer(template, adds_bos=adds_bos))
    last, every = chat.sample(CHAT), chat.sample(CHAT, "all_turns")
    assert every.input_ids == last.input_ids
    trained = [i for i, (a, b) in enumerate(zip(every.target, last.target, strict=True)) if a and not b]
    assert chat.decode([every.input_ids[i] for i in trained]).strip() == "5"
    first = chat.prompt_ids(CHAT[:1])
    assert trained == list(range(len(first), len(first) + len(trained)))


def test_end_template_stops_at_its_own_token_too():
    chat = ChatFormat(make_tokenizer(END_TEMPLATE, adds_bos=True))
    tokenizer = chat.tokenizer
    assert chat.end_of_turn == (tokenizer.convert_tokens_to_ids("<end>"),)
    assert set(chat.stop_ids) == {tokenizer.eos_token_id, *chat.end_of_turn}


def test_template_that_rewrites_earlier_turns_allows_the_last_turn_only():
    template = BOS_TEMPLATE.replace("{{ m['content'] }}", "{{ m['content'] if loop.last else 'gone' }}")
    chat = ChatFormat(make_tokenizer(template, adds_bos=False))
    assert chat.decode(chat.sample(CHAT).input_ids).count("gone")
    with pytest.raises(EngineError, match="use loss_on: last_turn"):
        chat.sample(CHAT, "all_turns")


def test_refusing_template_and_wrong_last_turn_are_named():
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(EngineError, match="roles must alternate"):
        ChatFormat(make_tokenizer(template, adds_bos=False)).prompt_ids(CHAT[:1])
    with pytest.raises(EngineError, match="end with an assistant turn"):
        ChatFormat(make_tokenizer(BOS_TEMPLATE, adds_bos=False)).sample(CHAT[:1])


def test_lone_surrogates_become_replacement_characters():
    chat = ChatFormat(make_tokenizer(BOS_TEMPLATE, adds_bos=True))
    broken = [CHAT[0], {"role": "assistant", "content": "4\ud83d"}]
    whole = [CHAT[0], {"role": "assistant", "content": "4\ufffd"}]
    assert chat.sample(broken) == chat.sample(whole)
    assert chat.prompt_ids([*broken, CHAT[2]]) == chat.prompt_ids([*whole, CHAT[2]])


def test_plain_template_keeps_turns_on_lines_of_their_own():
    chat = ChatFormat(make_tokenizer(None, adds_bos=False))
    text = chat.tokenizer.decode(chat.prompt_ids(CHAT[:3]))
    assert text == "User:\n2+2?\nAssistant:\n5</s>\nUser:\nsure?\nAssistant:\n"
