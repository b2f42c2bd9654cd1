"""A recipe: the science of a run, and nothing about the site it runs on."""

from __future__ import annotations

from datetime import date as Day
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from hpcmaf.config.agents import BY_NUMBER, AgentSettings, check_agents, names_of, resolved
from hpcmaf.debate.methods import METHODS, Objective, Shape
from hpcmaf.engines.base import Sampling
from hpcmaf.files.yaml import Strict, added
from hpcmaf.models.chat import DATE
from hpcmaf.tasks import TASKS
from hpcmaf.tasks.prompts import PromptFile

# Debates of a problem that are a group of grpo's, where a recipe does not say.
_GROUP = 4


def _day(value: str) -> str:
    try:
        return Day.fromisoformat(value).isoformat()
    except ValueError:
        raise ValueError(f"{value!r} is no day; write it as '2025-01-31'") from None


class Model(Strict):
    """The base that all agents are copied from."""

    path: str = Field(description="a folder, a Hugging Face id, or 'micro' for the packaged base")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    date: Annotated[str, AfterValidator(_day)] = Field(DATE, description="that chat templates see, as '2025-01-31'")
    chat_template: str | None = Field(None, description="a jinja file in place of the model's own template")
    chat_template_kwargs: dict[str, bool | int | float | str | None] = Field(
        {}, description="what the template is given besides the messages, such as {enable_thinking: false}"
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _free(cls, value: dict[str, Any]) -> dict[str, Any]:
        own = "messages conversation chat_template add_generation_prompt tokenize strftime_now".split()
        if taken := value.keys() & set(own):
            raise ValueError(f"{min(taken)} is set by hpcmaf; leave it out")
        return value

    @property
    def chat(self) -> dict[str, Any]:
        """How chats are rendered."""
        return self.model_dump(include={"date", "chat_template", "chat_template_kwargs"})


class TaskSource(Strict):
    """Where problems come from, and how they are put to agents."""

    name: str = Field(description=f"one of {', '.join(TASKS)}, or FILE.py:OBJECT")
    source: str | None = Field(None, description="what 'hpcmaf data prepare' wrote")
    prompts: str | PromptFile = Field("default", description="a variant, a shipped file's name, or a YAML file")
    answer: Literal["boxed", "number", "letter", "text", "code"] | None = Field(
        None, description="what kind of answer is read: boxed, number, letter, text or code; the task's own by default"
    )
    grader: str | None = added(None, "what reads and compares answers: FILE.py:OBJECT, or an installed package's")
    sandbox: Literal["namespaces", "limits"] = added(
        "namespaces",
        "what answers that are programs run in; limits alone keep them neither from the network nor your files",
    )
    levels: list[int] | None = Field(None, min_length=1, description="MATH levels, such as [1, 2, 3]")


class Task(TaskSource):
    """The problems of a run."""

    train: int = Field(500, ge=1, description="number of training problems")
    eval: int = Field(500, ge=1, description="number of held-out evaluation problems")


class Debate(Strict):
    """N agents debate over M rounds."""

    agents: int = Field(3, ge=1, le=1000, description="N, the number of agents, 1 to 1000")
    rounds: int = Field(2, ge=1, le=1000, description="M, the number of rounds, 1 to 1000")
    stop: Literal["never", "unanimous"] = added("never", "never, or unanimous: a round in which all agree is the last")
    listen: Literal["all", "ring"] | Annotated[int, Field(ge=1)] = added(
        "all", "whose answers an agent reads: all, ring (the agent's before it) or so many drawn others"
    )
    vote: Literal["plurality", "weighted"] = added(
        "plurality", "plurality, or weighted by how often an agent agreed with the vote in training debates"
    )
    aggregate: Literal["vote", "judge"] = added("vote", "vote, or judge: the base picks one of the last answers")
    samples: int = added(1, "how often each training problem is debated, 1 to 1000", ge=1, le=1000)


class Selection(Strict):
    """Which of its own successful responses an agent learns from."""

    w: float = Field(0.5, ge=0.0, le=1.0, description="share of critic data from D-, between 0 and 1")
    mix: Literal["exact", "cap", "released"] = "exact"
    critics: Literal["all", "disputed"] = Field("all", description="disputed: where the others disagreed")
    cut_off: Literal["drop", "keep"] = Field("drop", description="responses that ended at max_new_tokens")
    form_reward: float = added(0.0, "grpo: for answers that can be read, beside 1 for agreeing", ge=0.0)
    on_policy: int = added(0, "distil: so many own answers per problem, weighted by the society", ge=0, le=1000)


class Lora(Strict):
    """Shape of the adapters."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    targets: Annotated[list[str], Field(min_length=1)] | Literal["all-linear"] = "all-linear"


class Training(Strict):
    """How each agent is finetuned."""

    tuning: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    objective: Objective = Field("sft", description="sft, or dpo, kto or grpo, which are methods maft-dpo and so on")
    dpo_beta: float = Field(0.1, gt=0.0, description="how much a preference may cost in distance from the start")
    kto_beta: float = added(0.1, "how much a verdict may cost in distance from the start", gt=0.0)
    grpo_beta: float = added(0.04, "weight of the divergence from the base beside the reward", ge=0.0)
    grpo_clip: float = added(0.2, "how far a token's probability ratio is rewarded from 1", gt=0.0, lt=1.0)
    minority_weight: float = added(1.0, "kto and grpo: of responses that lose, beside 1 for those that win", ge=0.0)
    epochs: int = Field(2, ge=1)
    learning_rate: float = Field(1e-5, gt=0.0, description="a positive number, such as 1e-5, or 1e-4 for adapters")
    batch_size: int = Field(32, ge=1, description="sequences per optimiser step, over all processes")
    even_batches: bool = Field(False, description="false: an epoch's last step has what remains")
    micro_batch_size: int = Field(8, ge=1, description="sequences per forward pass and process, at most")
    packing: bool = Field(True, description="true: short samples share rows of max_length; false: they are padded")
    max_length: int = Field(2048, ge=8, description="tokens; longer samples are dropped and counted")
    zero_stage: Literal[0, 1, 2, 3, "auto"] = Field("auto", description="0 to 3, or auto: the lowest that fits")
    offload: Literal["none", "optimizer", "params"] = Field("none", description="params: with zero_stage 3 only")
    loss_on: Literal["last_turn", "all_turns"] = "last_turn"
    thinking: Literal["keep", "strip"] = Field("keep", description="what becomes of thoughts in training data")
    quantize: Literal["none", "4bit", "fp8"] = Field("none", description="of the frozen base; 4bit is QLoRA")
    start_from: Literal["previous", "base"] = "previous"
    warmup_ratio: float = Field(0.0, ge=0.0, le=1.0)
    weight_decay: float = Field(0.0, ge=0.0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    gradient_checkpointing: bool | Literal["auto"] = Field("auto", description="auto: of as few layers as need be")
    loss_spike: float = Field(3.0, ge=0.0, description="times the usual that stop the job; above 1, or 0: never")

    @model_validator(mode="after")
    def _offloadable(self) -> Training:
        if 0 < self.loss_spike <= 1:
            raise ValueError(f"loss_spike is {self.loss_spike:g}; set it above 1, or to 0 for never")
        if self.offload != "none" and self.zero_stage in ((0,) if self.offload == "optimizer" else (0, 1, 2)):
            raise ValueError(
                f"offload {self.offload!r} does not go with zero_stage {self.zero_stage}; set that to auto"
            )
        if self.quantize != "none" and (self.tuning == "full" or self.zero_stage == 3 or self.offload == "params"):
            raise ValueError(f"quantize {self.quantize!r} needs tuning lora, zero_stage below 3, no offload of params")
        return self


class Recipe(Strict):
    """One run's science, as written in ``recipes/<task>/<name>.yaml``, or by halves in ``models/`` and ``tasks/``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="letters, digits, '.', '_' and '-'")
    description: str = ""
    model: Model
    task: Task
    evaluate_on: TaskSource | None = Field(None, description="another task to evaluate on: transfer")
    method: Literal[tuple(METHODS)] = "maft"  # type: ignore[valid-type]
    debate: Debate = Debate()
    sampling: Sampling = Sampling()
    selection: Selection = Selection()
    training: Training = Training()
    agents: Annotated[dict[str, AgentSettings], BY_NUMBER] = added(
        {}, "settings of agents' own, by number or name: model, tuning, training, sampling, prompts"
    )
    iterations: int = Field(5, ge=0, le=1000, description="L, the number of iterations, 0 to 1000, or {auto: L}")
    early_stop: bool = added(False, "true: the alarm may end the run before L; iterations: {auto: L} sets both")
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _until_the_alarm(cls, values: Any) -> Any:
        """``iterations: {auto: 8}`` is at most 8; ``auto`` alone at most the default."""
        most = values.get("iterations") if isinstance(values, dict) else None
        if most == "auto":
            return {key: value for key, value in values.items() if key != "iterations"} | {"early_stop": True}
        if isinstance(most, dict) and most.keys() == {"auto"}:
            return values | {"iterations": most["auto"], "early_stop": True}
        return values

    @model_validator(mode="before")
    @classmethod
    def _one_objective(cls, values: Any) -> Any:
        """``method: maft-dpo`` and ``training.objective: dpo`` are one setting in two places: either implies the other.

        So it is with ``kto`` and ``grpo``; of the latter four debates of a problem are a group where nothing is said.
        """
        training = values.get("training", {}) if isinstance(values, dict) else None
        if not isinstance(training, dict):
            return values
        method, objective = values.get("method", "maft"), training.get("objective")
        if not isinstance(method, str):
            return values
        if method == "maft" and f"maft-{objective}" in METHODS:
            method = f"maft-{objective}"
        wanted = METHODS[method].objective if method in METHODS else objective
        if objective in get_args(Objective) and objective != wanted:
            raise ValueError(f"training.objective is {objective}, but method {method} is trained by {wanted}; drop it")
        if wanted == "grpo" and isinstance(debate := values.get("debate", {}), dict):
            values = values | {"debate": {"samples": _GROUP} | debate}
        if objective is None and wanted not in (None, "sft"):
            training = training | {"objective": wanted}
        return values | {"method": method, "training": training}

    def of(self, agent: str | None) -> Recipe:
        """The recipe as one agent has it: the settings of its own in place of the recipe's."""
        return resolved(self, agent) if agent and self.agents else self

    @property
    def named(self) -> list[str]:
        """Agents, the summarizer among them, that have settings of their own."""
        return sorted({name for key in self.agents for name in names_of(key)})

    @property
    def trained(self) -> list[str]:
        """Agents that have a model of their own."""
        return METHODS[self.method].trained_agents(self.debate.agents, self.debate.rounds)

    @property
    def evaluation(self) -> TaskSource:
        """Where evaluation problems come from."""
        return self.evaluate_on or self.task

    def source(self, *, evaluating: bool) -> TaskSource:
        """Where the problems of evaluation, or of training debates, come from."""
        return self.evaluation if evaluating else self.task

    def shape(self, *, evaluating: bool) -> Shape:
        """Agents and rounds of evaluation, or of training debates."""
        method = METHODS[self.method]
        return (method.inference_shape if evaluating else method.rollout_shape)(self.debate.agents, self.debate.rounds)

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        if self.debate.agents == 1 and self.debate.rounds > 1:
            raise ValueError("debate.rounds: one agent cannot debate; set debate.rounds to 1")
        if isinstance(self.debate.listen, int) and self.debate.listen >= self.debate.agents:
            raise ValueError(f"debate.listen: {self.debate.listen} is more than the other agents; write all")
        if self.training.objective == "grpo" and self.debate.samples == 1:
            raise ValueError("debate.samples: grpo compares debates of one problem; set debate.samples to 2 or more")
        if self.selection.on_policy and (METHODS[self.method].trained != "distilled" or self.selection.on_policy < 2):
            raise ValueError("selection.on_policy: compares 2 or more answers of distil's one model; leave it out")
        if self.selection.critics == "disputed" and self.debate.agents < 3:
            raise ValueError("selection.critics: disputed needs debate.agents of 3 or more")
        check_agents(self)
        return self
