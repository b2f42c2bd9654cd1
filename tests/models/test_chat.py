"""Training sees the tokens that generation sees."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from hpcmaf.answers import AnswerForm, extract, spoken
from hpcmaf.errors import EngineError, failure_kind
from hpcmaf.models.chat import ChatFormat, Message
from tests.tiny_models import BOS_TEMPLATE, END_TEMPLATE, make_tokenizer

pytestmark = pytest.mark.slow  # imports transformers

# The shapes of well-known families: what ends a turn is no EOS, and most of them trim what is said.
FAMILIES = {
    "phi3": (
        "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>"],
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}</turn>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}",
        ["<turn>", "</turn>"],
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ["<|im_start|>", "<|im_end|>"],
    ),
    "llama3": (
        "{{ bos_token }}{% if strftime_now is defined %}<|head|>today is {{ strftime_now('%d %b %Y') }}<|eot|>{% endif %}"
        "{% for m in messages %}<|head|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|head|>assistant\n\n{% endif %}",
        ["<|head|>", "<|eot|>"],
    ),
}
# As Qwen3's thinking models: the template begins the thought, and shows no earlier ones.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% set parts = m['content'].split('</think>') %}"
    "{% if m['role'] == 'assistant' and parts | length > 1 and loop.last %}"
    "<think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip('\n') if parts | length > 1 else m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
)


def family_tokenizer(family: str, *, special: bool = True):
    """A tokenizer whose marks stand among the added tokens alone; ``special``: whether they are special there."""
    from tokenizers import AddedToken

    template, marks = THINKING if family == "thinking" else FAMILIES[family]
    tokenizer = make_tokenizer(template, adds_bos=False, named=())
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    return tokenizer


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
    bos = chat.tokenizer.bos_token_id
    assert prompt.count(bos) == sample.input_ids.count(bos) == (adds_bos or template == BOS_TEMPLATE)
    # All turns are every answer and nothing else.
    every, first = chat.sample(CHAT, "all_turns"), chat.prompt_ids(CHAT[:1])
    assert every.input_ids == sample.input_ids
    more = [i for i, (a, b) in enumerate(zip(every.target, sample.target, strict=True)) if a and not b]
    assert chat.decode([every.input_ids[i] for i in more]).strip() == "5"
    assert more == list(range(len(first), len(first) + len(more)))


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
    for template in ("{{ messages[0].content }}", "{{ bos_token }}"):
        with pytest.raises(EngineError, match="^model.chat_template leaves out turns of a debate; use"):
            ChatFormat(make_tokenizer(None, adds_bos=False), chat_template=template).prompt_ids(CHAT[:1])
    with pytest.raises(EngineError, match="end with an assistant turn"):
        ChatFormat(make_tokenizer(BOS_TEMPLATE, adds_bos=False)).sample(CHAT[:1])


def test_the_plain_template_has_turns_on_lines_of_their_own_and_no_lone_surrogates():
    chat = ChatFormat(make_tokenizer(None, adds_bos=False))
    broken = [CHAT[0], {"role": "assistant", "content": "4\ud83d"}, CHAT[2]]
    text = chat.tokenizer.decode(chat.prompt_ids([CHAT[0], CHAT[1], CHAT[2]]))
    assert text == "User:\n2+2?\nAssistant:\n5</s>\nUser:\nsure?\nAssistant:\n"
    whole = [CHAT[0], {"role": "assistant", "content": "4\ufffd"}, CHAT[2]]
    assert chat.prompt_ids(broken) == chat.prompt_ids(whole) and chat.sample(broken[:2]) == chat.sample(whole[:2])


ENDS = {"phi3": "<|end|>", "gemma": "</turn>", "chatml": "<|im_end|>", "llama3": "<|eot|>"}


def tokens(chat: ChatFormat, ids: list[int]) -> list[str]:
    return chat.tokenizer.convert_ids_to_tokens(ids)


def trained(chat: ChatFormat, sample) -> str:
    return "".join(tokens(chat, [i for i, target in zip(sample.input_ids, sample.target, strict=True) if target]))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_of_turn_is_the_templates_own_though_only_an_added_token(family, special):
    chat = ChatFormat(family_tokenizer(family, special=special))
    assert not set(chat.end_of_turn) & set(chat.tokenizer.all_special_ids)
    assert trained(chat, chat.sample(CHAT)) == f"no: 4{ENDS[family]}"
    assert trained(chat, chat.sample(CHAT, "all_turns")) == f"5{ENDS[family]}no: 4{ENDS[family]}"
    assert trained(chat, chat.sample(CHAT, "all_turns", opening=2)) == f"no: 4{ENDS[family]}", "a worked example"
    assert trained(chat, chat.sample(CHAT, ended=False)) == "no: 4", "what was cut off teaches no end"
    # What generation stops at, and what an answer's text does not show.
    assert chat.end_of_turn[-1] in chat.stop_ids
    assert chat.decode([*chat.sample(CHAT[:2]).input_ids[-2:]]) == "5"


def test_ends_of_the_generation_config_count(tmp_path):
    tokenizer = make_tokenizer(BOS_TEMPLATE.replace("{{ eos_token }}", "!"), adds_bos=False)
    tokenizer.save_pretrained(tmp_path)
    bang = tokenizer.convert_tokens_to_ids("!")
    assert ChatFormat.from_pretrained(str(tmp_path)).end_of_turn == (tokenizer.eos_token_id,)
    GenerationConfig(eos_token_id=[bang]).save_pretrained(tmp_path)
    chat = ChatFormat.from_pretrained(str(tmp_path))
    assert chat.end_of_turn == (bang,) and set(chat.stop_ids) == {bang, tokenizer.eos_token_id}
    # A model without its ends would never stop: what cannot be read is not passed over.
    damaged = tmp_path / "generation_config.json"
    for text in ('{"eos_token_id": [1', '{"eos_token_id": "!"}', '{"eos_token_id": 2, "pad_token_id": [{}]}', "[" * 5000):
        damaged.write_text(text)
        with pytest.raises(EngineError, match="its generation_config.json cannot be read"):
            ChatFormat.from_pretrained(str(tmp_path))
    damaged.unlink()
    damaged.symlink_to("/proc/self/mem")
    with pytest.raises(EngineError, match="its generation_config.json cannot be read") as caught:
        ChatFormat.from_pretrained(str(tmp_path))
    assert failure_kind(caught.value) == "hardware"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_control_tokens_in_texts_are_text(family, special):
    chat = ChatFormat(family_tokenizer(family, special=special))
    marks = [*FAMILIES[family][1], "<s>", "b", "</s>"]
    typed, shown = "".join(marks), "".join(f"{mark[0]} {mark[1:]}" if mark != "b" else mark for mark in marks)
    one = [{"role": "user", "content": typed}, {"role": "assistant", "content": f"c {typed}"}, CHAT[2], CHAT[3]]
    plain = [{"role": turn["role"], "content": "x"} for turn in one]
    added = set(chat.tokenizer.added_tokens_decoder)

    def controls(ids):
        return [i for i in ids if i in added]

    assert controls(chat.prompt_ids(one[:1])) == controls(chat.prompt_ids(plain[:1]))
    assert controls(chat.sample(one).input_ids) == controls(chat.sample(plain).input_ids)
    assert shown in chat.tokenizer.decode(chat.prompt_ids(one[:1]))
    # Trained as it is read in the next round, and found by all_turns.
    prompt, answered = chat.prompt_ids(one[:1]), chat.sample(one[:2]).input_ids
    assert chat.prompt_ids(one[:3])[: len(answered)] == answered and answered[: len(prompt)] == prompt
    assert trained(chat, chat.sample(one, "all_turns")) == f"c {shown}{ENDS[family]}no: 4{ENDS[family]}"


def test_words_that_models_say_stay_tokens_of_their_own():
    tokenizer = family_tokenizer("chatml")
    tokenizer.add_tokens(["<think>", "</think>"])
    chat = ChatFormat(tokenizer)
    thought = chat.sample([CHAT[0], {"role": "assistant", "content": "<think>x</think>4"}])
    assert tokens(chat, thought.input_ids)[-5:] == ["<think>", "x", "</think>", "4", "<|im_end|>"]
    assert chat.decode(thought.input_ids[-5:]) == "<think>x</think>4"


@pytest.mark.parametrize("said", ["5\n", "\n5", " 5 ", "5<|eot|>\n", ""])
@pytest.mark.parametrize("family", FAMILIES)
def test_white_space_at_an_answers_ends_stops_nothing(family, said):
    chat = ChatFormat(family_tokenizer(family))
    one = [CHAT[0], {"role": "assistant", "content": said}, *CHAT[2:]]
    end, trims = ENDS[family], family in ("gemma", "llama3")
    said = said.replace(end, f"{end[0]} {end[1:]}")
    first = said.strip() if trims else said
    assert trained(chat, chat.sample(one, "all_turns")) == f"{first}{end}no: 4{end}"
    # Last turns are trained as they were generated.
    assert trained(chat, chat.sample(one[:2], "all_turns")) == f"{said}{end}"


def test_added_line_breaks_end_no_turn_and_may_merge_with_the_templates():
    from tokenizers import AddedToken

    tokenizer = family_tokenizer("chatml")
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])  # as byte-pair encodings merge them
    sample = ChatFormat(tokenizer).sample([CHAT[0], {"role": "assistant", "content": "\n5"}, *CHAT[2:]], "all_turns")
    assert trained(ChatFormat(tokenizer), sample) == "\n\n5<|im_end|>no: 4<|im_end|>"
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "\n\n<|im_end|>")
    chat = ChatFormat(tokenizer)
    assert tokens(chat, list(chat.end_of_turn)) == ["\n\n", "<|im_end|>"]
    assert chat.decode(chat.sample(CHAT[:2]).input_ids[-3:]) == "5"


def test_a_template_is_told_the_same_day_whenever_it_asks():
    tokenizer, days = family_tokenizer("llama3"), {"01 Jan 2025": {}, "31 Dec 2029": {"date": "2029-12-31"}}
    for day, settings in days.items():
        chat = ChatFormat(tokenizer, **settings)
        assert f"today is {day}" in chat.tokenizer.decode(chat.prompt_ids(CHAT[:1]))


def test_a_system_message_is_read_whatever_roles_a_template_has():
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + BOS_TEMPLATE
    dropping = BOS_TEMPLATE.replace("<{{ m['role'] }}>{{ m['content'] }}", "{% if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}")
    for template in (refusing, dropping, BOS_TEMPLATE):
        chat = ChatFormat(make_tokenizer(template, adds_bos=False))
        text = chat.tokenizer.decode(chat.prompt_ids([{"role": "system", "content": "calm"}, *CHAT[:1]]))
        assert "calm" in text and "2+2?" in text
        assert ("<system>" in text) == (template == BOS_TEMPLATE)


def test_a_thought_that_the_template_begins_is_part_of_what_is_said() -> None:
    chat = ChatFormat(family_tokenizer("thinking", special=False))
    question: list[Message] = [{"role": "user", "content": "6 * 7?"}]
    prompt = chat.prompt_ids(question)
    written = chat.tokenizer("<think>\nsix sevens\n</think>\n\n42<|im_end|>", add_special_tokens=False)["input_ids"]
    begun = chat.tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
    assert prompt[-len(begun) :] == begun
    text = chat.decode(written[len(begun) :])
    assert text == "<think>\nsix sevens\n</think>\n\n42" and extract(text, AnswerForm.NUMBER) == "42"
    assert extract(chat.decode(written[len(begun) : -12]), AnswerForm.NUMBER) is None, "a thought that never ends"
    sample = chat.sample([*question, {"role": "assistant", "content": text}])
    assert sample.input_ids == prompt + written[len(begun) :]
    # Without its thought the turn ends the one that the template begins.
    stripped = chat.sample([*question, {"role": "assistant", "content": spoken(text)}])
    assert chat.tokenizer.decode(stripped.input_ids[len(prompt) :]) == "</think>\n\n42<|im_end|>"


def test_a_template_of_ones_own_gets_what_it_is_given() -> None:
    template = BOS_TEMPLATE.replace("<assistant>", "<assistant>{{ 'fast' if not enable_thinking else 'slow' }}")
    for on, shown in ((False, "fast"), (True, "slow")):
        settings = {"chat_template": template, "chat_template_kwargs": {"enable_thinking": on}}
        chat = ChatFormat(make_tokenizer(None, adds_bos=False), **settings)
        assert chat.tokenizer.decode(chat.prompt_ids(CHAT[:1])).endswith(shown)
