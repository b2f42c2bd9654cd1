"""The rows: the paper's method, its baselines and ablations, and controls that its reviewers asked for."""

from __future__ import annotations

from hpcmaf.methods.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("base", "the untouched base, one answer", learners="nobody", inference="answer"),
        Method("majority", "the untouched base, N answers and their vote", learners="nobody", inference="vote"),
        Method("debate", "no training: N copies of the base debate", learners="nobody"),
        Method(
            "star",
            "one model, on its answers that gold confirms; wrong ones are retried with gold as a hint",
            learners="single",
            practice="hints",
            data="gold",
            inference="answer",
        ),
        Method(
            "majority-ft",
            "one model, on all of N answers that match their vote; no debate",
            learners="single",
            practice="answers",
            data="responses",
            inference="vote",
        ),
        Method(
            "single-agent-ft",
            "one model, on all of a debate's responses that match its vote; N copies debate",
            learners="single",
            data="responses",
        ),
        Method(
            "single-agent-ft-no-debate",
            "the model of single-agent-ft gives one answer",
            learners="single",
            data="responses",
            inference="answer",
        ),
        Method("maft", "multiagent finetuning: 2N specialists, debate with summaries"),
        Method("maft-no-summary", "maft with the others' answers concatenated instead of summarized", summaries=False),
        Method("maft-no-critic", "only the N generators are trained; critics stay the base", learners="generators"),
        Method("unique-id", "no training; prompts begin with the agent's ID and role", learners="nobody", ids=True),
        Method(
            "cooperative", "no training; agents integrate the others' answers", learners="nobody", manner="cooperate"
        ),
        Method("cooperative-ft", "maft whose agents integrate the others' answers", manner="cooperate"),
        Method(
            "single-agent-ft-hot",
            "single-agent-ft sampled at temperature 2",
            learners="single",
            data="responses",
            temperature=2.0,
        ),
        Method(
            "no-interaction", "maft's models, evaluated with all first answers from generator-0", first_answers_by=0
        ),
        Method(
            "union-data",
            "one model on the union of all of maft's training sets; N copies debate",
            learners="single",
            data="union",
        ),
        Method(
            "maft-dpo",
            "maft by preference: of a round's answers, one that matches the consensus over one that does not",
            data="pairs",
            objective="dpo",
        ),
    )
}
