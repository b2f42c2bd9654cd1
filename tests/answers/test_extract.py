r"""Every place an answer may stand in, what looks like one and is none, and texts that must not stall the search."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm, closing_mark, extract, spoken

ROWS: dict[str, list[tuple[str, str | None]]] = {
    "number": [
        (r"so \boxed{1,234}", '1234'), (r"\boxed{3} then \boxed{4}", '4'), (r"\boxed{} and 5", '5'),
        (r"7 and \boxed{12", '12'), (r"\fbox{7} 8", '7'), (r"\boxed{x = 12}", '12'), (r"\boxed{3 + 4 = 7}", '7'),
        (r"\boxed{\frac{3}{4}}", '3/4'), (r"\boxed{1\frac12}", '3/2'), (r"\boxed{50\%}", '50'),
        (r"\boxed{12 \text{ apples}}", '12'), (r"\boxed{2^{10}}", '1024'), (r"\boxed{2\sqrt{3}}", None),
        (r"\boxed{5, 6}", None), (r"\boxed{\text{none}} after 5 steps", None), (r"\boxed{99999999!}", None),
        (r"\boxed{9^{9^{9^9}}}", None), (r"\boxed{1e999999999}", None), ("#### $1,234.50 dollars", '1234.50'),
        ("#### \n 12 \n 13", '12'), ("first #### 1\nthen #### 2\nend 3", '2'), ("foo\n# 42\nbar 3", '42'),
        ("# Step 1\n# 2. Compute\nso 42", '42'), ("The answer is -3. Then 4", '-3'),
        ("**Answer**: 12 apples\nnote 3", '12'), ("answer is: \n\n 7", '7'), ("answer: 3 + 4 = 7", '7'),
        ("The answer is 12 since 3*4=12, x=3", '12'), ("answer is 3/4.", '3/4'), ("12-30=-18", '-18'),
        ("12 - 30 = - 18", '-18'), ("12 - 30", '30'), ("3-5", '5'), ("5 - -3", '-3'), ("(-3)", '-3'), ("= −7", '-7'),
        ("-$5", '-5'), (r"it is -\$5", '-5'), ("10%", '10'), (".5", '0.5'), ("1,2345", '1.2345'),
        ("pi is 3,14.", '3.14'), ("#### -2,5", '-2.5'), ("(3,4)", '4'), ("2,3,5", '5'), ("x2 = 7", '7'),
        ("The answer is 12 o'clock.", '12'),
        ("CO2", None), ("no number", None), ("\x00\ud800 7", '7'), ("", None), ("<think>7</think>", None),
        ("#### Step 2\nSo 5", '5'), ("#### 1. Add\n3+4=7\n#### 2. Double\nIt is 14", '14'),
        ("#### Part 3: x\nThe answer is 9.", '9'), ("#### **42**", '42'), ("#### Answer: 42", '42'),
        ("#### 1) Compute\n 3\n", '3'), ("#### Day 3 sales\nShe sold 5", '5'),
        ("#### 42\n#### Notes\nchecked 3 times", '42'), ("##### 5", '5'), ("#### -1,234.5", '-1234.5'),
        ("### Step 3\n#### 12", '12'), ("#### Solution 2\nwe get 8", '8'), ("#### 3 + 4 = 7", '7'), ("#### x = 7", '7'),
        ("My answer: the sum of 3 and 4 is 7.", '7'), ("Answer: 12 - 5 = 7", '7'), ("The answer is 3+4.", None),
        ("The answer to 3+4 is 7.", '7'), ("Answer: Out of 10 there are 7.", '7'),
        ("To find the answer, multiply: 3*5.\nSo he has 15.", '15'),
        ("The answer is the sum of 5 and 6, that is 11.", '11'), ("The answer is 12, not 13.", '12'),
        ("The answer is 12 (that is 3*4).", '12'), ("The final answer is 12 apples and 0 pears.", '12'),
        ("The answer is 12+28*19+6 = 550.", '550'), ("The answer is 12 or 13.", None), ("The answer is 10 ± 2.", None),
        ("It is 10 ± 2", None), (r"\boxed{} 7 and \boxed{8}", '8'), (r"\boxed{8} and \boxed{}", '8'),
        (r"\boxed{8} in \boxed{answer}, 3 times", '8'), (r"\boxed{8}, as \boxed{N}", '8'),
        ("The answer is 2 3/4.", '11/4'), ("The answer is 2.5 x 10^3.", '2500'),
        (r"The answer is $1.8 \times 10^4$.", '18000'), ("The answer is 3×10⁴", '30000'), ("#### 3 1/2", '7/2'),
        ("The answer is 1 000 000.", '1000000'), (r"The answer is $3\frac{1}{2}$.", '7/2'),
        ("The answer is -1 1/2.", '-3/2'), ("Answer: 1.2*10^{-2}", '3/250'), ("The answer is 10^3.", '1000'),
        ("The answer is 2^5.", '32'), ("The answer is negative 5.", '-5'), ("The answer is minus 5", '-5'),
        (r"$-\boxed{5}$", '-5'), (r"= -\boxed{5}", '-5'), (r"x - \boxed{5}", '5'), (r"3-\boxed{5}", '5'),
        (r"\boxed{\text{negative }5}", '-5'), ("The answer is - 5.", '-5'), ("The answer is: −5", '-5'),
        ("The answer is -$5.", '-5'), (r"\boxed{minus 5}", '-5'), (r"negative \boxed{5}", '-5'),
        ("The answer is –5", '-5'), ("The change is −7", '-7'), (r"\boxed{2.5 million}", '2500000'),
        ("#### 5 thousand", '5000'), (r"\boxed{3 \text{ dozen}}", '36'), ("so it costs $2 billion", '2000000000'),
        (r"\boxed{5} million", '5000000'), ("答案是5万", '50000'), ("The answer is 2 dozen eggs.", '24'),
        ("96/12=8 dozens\n", '96'), (r"\boxed{5\text{ million dollars}}", '5000000'),
        ("The answer is 5 trillion", '5000000000000'), (r"\boxed{2:30}", None), ("The answer is 2:30 PM.", None),
        (r"\boxed{9\text{ a.m.}}", None), (r"\boxed{3:2}", '3/2'), (r"\boxed{2\!:\!30\text{ p.m.}}", None),
        ("#### 2:30", None), ("The answer is 3:15.", None), ("答案是４２", '42'), ("\\boxed{４２}", '42'), ("الجواب ٤٢", '42'),
        ("答案为１，２３４。", '1234'), ("#### ４２", '42'), ("答案：－５", '-5'), ("The answer is 𝟕𝟑.", '73'), (r"\boxed{14 m}", '14'),
        (r"\boxed{14\,m^2}", '14'), (r"\boxed{14 \mathrm{m}^2}", '14'), (r"\boxed{5 L}", '5'),
        (r"\boxed{14 ft^2}", '14'), (r"\boxed{3 s}", '3'), (r"\boxed{14 m/s}", '14'), ("\\boxed{14 m²}", '14'),
        (r"\boxed{20 g}", '20'), (r"\boxed{5x^2+1}", None), (r"\boxed{9.8 m/s^2}", '9.8'),
        ("It is 5:00 and he has 7 left.", '7'), ("1. Add\n2. Halve\n3) So twelve", None), ("Step 3: add up", None),
        ("1. It is 5\n2. Done", '5'), ("She has 12 left.", '12'), ("It costs $5.50", '5.50'), ("Thus x = 7", '7'),
        (r"\boxed{3^2}", '9'), ("#### 1st step\nHe is 9.", '9'), ("The answer is 4½.", '9/2'), (r"\boxed{9 °C}", '9'),
        (r"\boxed{9} as \boxed{number}", '9'), ("It is 9. Thanks to agent 2!", '9'),
        ("It is 7:30 when she arrives.", None), ("It is 5 hundred thousand.", '500000'),
        (r"The answer is: 15^\circ", '15'), ("The answer is 20% of 50, which is 10.", '10'),
        ("The answer is 25% of 80.", None), ("The answer is not 7 but 8.", '8'),
        ("The answer is 5 times 3 is 15.", '15'), ("So the area is 25 cm^2.", '25'), ("It covers 25 m².", '25'),
    ],
    "boxed": [
        ("The answer is $x = 2$ or $x = 3$.", 'x = 2,x = 3'), (r"The answer is \(2\), \(3\), and \(5\).", '2,3,5'),
        ("The answer is $2$, since $x>0$.", '2'), ("The answer is $5$ and we are done.", '5'),
        (r"\boxed{\frac{1}{\{2\}}}", r"\frac{1}{\{2\}}"), (r"\boxed{\left\{1,2\right\}}", r"\left\{1,2\right\}"),
        (r"\boxed{a} then \boxed{b}", 'b'), (r"\boxed{a} \boxed{b", None), (r"\boxed{}", None), (r"\boxed 5", '5'),
        (r"$\boxed 5$.", '5'), (r"\boxed {7}", '7'), (r"\boxed\frac{1}{2}.", r"\frac{1}{2}"), (r"\fbox{x}", 'x'),
        (r"\boxed{\boxed{3}}", '3'), (r"\boxedness{3}", None), (r"\boxed{\text{east}}", r"\text{east}"),
        (r"The final answer is \(\frac12\)", r"\frac12"), ("the answer is 12.", '12'), ("answer is (3, 4).", '(3, 4)'),
        ("the answer is that we cannot know", None), ("so $x$ is $5$", None),
        ("\ud800\\boxed{\ud800\x00}", '\ud800\x00'), ("My answer is correct.", None),
        ("My answer remains unchanged.", None), ("The answer is clear.", None),
        ("So my answer is the same as before.", None), ("Their answer is wrong.", None),
        ("my answer is still correct", None), ("The answer is as follows:", None),
        ("The answer is incorrect, it should be 7.", None), ("My final answer is unchanged: $7$.", '7'),
        ("the answer is consistent with the others", None), ("The answer is $7$. I am sure my answer is correct.", '7'),
        ("The answer was wrong.", None), ("The answer is none.", 'none'), ("The answer is yes.", 'yes'),
        ("answer is partially correct", None), ("The answer is unclear.", None), ("The answer is not 7.", None),
        ("My answer is correct: 14.", '14'), ("So it is still the same answer.", None),
        ("The answer is:\n```\n14\n```", '14'), ("Answer:\n```text\n14\n```", '14'), ("The answer is `14`.", '14'),
        ("The answer is:\n\n***\n\n14", '14'), ("The answer is:\n> 14", '14'), ("The answer is:\n- 14", '14'),
        ("Answer:\n\n**Reasoning:** we add.\nSo 5.", None), ("Answer:\n\n## Explanation\nwe add 5", None),
        ("The answer is:\n~~~\n14\n~~~", '14'), ("The final answer is:\n\n$$14$$", '14'),
        ("The answer is:\n```latex\n\\frac{1}{2}\n```", '\\frac{1}{2}'),
        ("The answer is:\n```python\nx = 3\nprint(x)\n```", None), ("The answer is:\n\n---", None),
        ("Answer:\n\n**Step 1:** add.\n", None), ("The answer is:\n1. First, add.", None),
        (r"<think>\boxed{3}</think>\boxed{4}", '4'), ("<thinking>\\boxed{3}</thinking>\nThe answer is $4$", '4'),
        (r"\boxed{3}</think>The answer is $4$.", '4'), (r"<think>a</think>b<think>\boxed{3}", None),
        (r"<THINK>\boxed{3}</THINK> \boxed{4}", '4'), (r"<reasoning>\boxed{3}</reasoning><answer>4</answer>", '4'),
        (r"[THINK]\boxed{3}[/THINK]\boxed{4}", '4'), (r"<think>\boxed{3}</think>", None),
        (r"<|begin_of_thought|>\boxed{3}<|end_of_thought|>\boxed{4}", '4'),
        ("<think>\n<think>\\boxed{1}</think>\\boxed{2}</think>\\boxed{4}", '4'),
        ("◁think▷\\boxed{3}◁/think▷\\boxed{4}", '4'), (r"<seed:think>\boxed{3}</seed:think>\boxed{4}", '4'),
        (r"<think>\boxed{3}", None), ("<think type='x'>\\boxed{3}", None), ("The answer is just $42$.", '42'),
        ("The answer is therefore $x=42$.", 'x=42'), (r"The answer is exactly \(42\).", '42'),
        ("The answer is, of course, $42$.", '42'), ("The answer is approximately $42$.", '42'),
        (r"the answer to the question is clearly $\frac12$", r"\frac12"),
        ("The correct answer is the expression $x+1$.", 'x+1'), ("Hence the answer must be $42$.", '42'),
        (r"The answer is $\$12.50$.", r"\$12.50"), (r"The answer is \$5.", r"\$5"), ("The answer is $5.", '$5'),
        (r"answer is $-\$5$", r"-\$5"), (r"\boxed{1} and \boxed{2}", '1,2'),
        (r"\boxed{1}, \boxed{2}, \boxed{3}", '1,2,3'), (r"\boxed{1}, \boxed{2}, and \boxed{3}.", '1,2,3'),
        (r"$\boxed{1}$ or $\boxed{2}$", '1,2'), (r"\boxed{1},\boxed{1}", '1'), (r"\boxed{1}. So we get \boxed{2}", '2'),
        (r"\boxed{x=1}\text{ or }\boxed{x=2}", 'x=1,x=2'), (r"\boxed{1} then \boxed{2}", '2'),
        (r"\boxed{5}, so \boxed{6}", '6'), (r"\boxed{5} & \boxed{6}", '6'), ("**Final Answer**\n\\[ 42 \\]", '42'),
        ("Final Answer\n\n$$\n42\n$$", '42'), ("# Final answer:\n42", '42'),
        ("### Final Answer\nThe answer is $42$.", '42'), ("### Final Result\n$42$", '42'),
        ("FINAL ANSWER\n\\(42\\)", '42'), ("Final Answer:\n\\[\nx = 42\n\\]", 'x = 42'),
        (r"So \boxed{7}. I put it as \boxed{...}.", '7'), (r"\boxed{7} in the form \boxed{\text{answer}}", '7'),
        (r"\boxed{Your Answer}", None), (r"\boxed{N}, where N is the value", None), (r"\boxed{7} \boxed{\ldots}", '7'),
        (r"\boxed{?}", None), (r"\boxed{} \boxed{answer}", None), (r"\boxed{answer here}", None),
        (r"\boxed{\text{final answer}}", None), (r"\boxed{\dots}", None), (r"\boxed{[answer]}", None),
        (r"\boxed{<answer>}", None), (r"\boxed{your\ answer}", None), (r"\boxed{XX}", 'XX'),
        ("The answer: the total is 34.", '34'), ("Final Answer: There are 34 ways.", '34'),
        ("Answer: the smallest $k$ is 5.", '5'), ("the answer is 42 because 6*7=42", '42'),
        ("The answer is that Ann has 3 of 5 apples", None), ("The final answer is x = 5.", 'x = 5'),
        (r"Final Answer: The value of $x$ is $\frac{1}{2}$.", r"\frac{1}{2}"), ("Answer: 42 apples", '42 apples'),
        ("The answer is 42, since it fits.", '42'), ("Final answer: The area is 12 square units.", '12'),
        (r"<answer>\frac12</answer>", r"\frac12"), ("<answer> The answer is $42$. </answer>", '42'),
        (r"<answer>\boxed{42}</answer>", '42'), ("<answer>1</answer> no <answer>42</answer>", '42'),
        ("<final_answer>42</final_answer>", '42'), ("<answer>42", '42'), ("<answer></answer>", None),
        ("2+3=5 apples\n#### 5", "5"),
        ("<answer>correct</answer>", None), ("The answer is:\n\n<b>9</b>", '9'), ("The final answer is: ➜ 9", '9'),
        ("Final answer: 👉 **9**", '9'), ("The answer is ==9==", '9'), ("Answer → 9", '9'),
        ("Therefore the answer comes to $9$.", '9'), (r"The answer is between \$9 and \$10: $\$9.50$.", r"\$9.50"),
        (r"\textbf{Answer} $9$", '9'), ("**Final Answer (simplified)**\n\n$9$", '9'),
        (r"\boxed{9} in \boxed{\quad}", '9'), ("[ANSWER]9[/ANSWER]", '9'),
        (r"\boxed{9} in \boxed{\text{numeric answer}}", '9'), ("Answer: N/A", None), ("Final answer:\n===\n9", '9'),
        ("<answer>[1,2)</answer>", "[1,2)"), (r"The answer is \(\boxed{}\) $7$", "7"), ("<answer>x<3</answer>", "x<3"),
        ("The answer is as follows:\n```\n14\n```", "14"),
        ("The answer cannot be (7).", None),
    ],
    "letter": [
        (r"\boxed{B}", 'B'), (r"\boxed{\text{(C)}}", 'C'), (r"\boxed{\textbf{A}}", 'A'), (r"\boxed{b}", 'B'),
        (r"\boxed{A) mitosis}", 'A'), (r"\boxed{42} so C", 'C'), ("(B)", 'B'), ("B", 'B'), ("**B**", 'B'),
        ("(A) at first, then (B)", 'B'), ("The answer is (d).", 'D'), ("answer is B, not (C)", 'B'),
        ("Answer: **C**", 'C'), (r"answer is $\text{D}$", 'D'), ("The correct option is: D", 'D'),
        ("A is correct.", 'A'), ("A dog ran.", None), ("A dog ran. The answer would be C", 'C'),
        ("the answer is a dog", None), ("C++ on a B-cell", None), ("E", None), ("", None), ("c", 'C'), ("(d)", 'D'),
        ("c) mitosis", 'C'), ("a", 'A'), ("**b**", 'B'), ("Answer: b", 'B'), ("answer is (c)", 'C'),
        ("The correct answer is d) water.", 'D'), ("a dog", None), ("Answer: a", 'A'),
        ("the answer is b because x", 'B'), ("The answer is `c`.", 'C'), ("The answer is Hepatitis B.", None),
        ("It is Vitamin C.", None), ("The answer is Type A blood.", None), ("I think it is Vitamin D.", None),
        ("The answer is Serie A", None), ("The answer is (C) Vitamin D.", 'C'), ("The answer is C, Vitamin D.", 'C'),
        ("B: Hepatitis A", 'B'), ("Programming language C.", None),
        ("A is wrong. B is right. C is wrong. D is wrong.", 'B'), ("(A) false (B) false (C) true (D) false", None),
        ("B is correct; A, C and D are incorrect.", 'B'),
        ("A is incorrect. B is incorrect. C is correct because of D.", 'C'),
        ("(A) red (B) blue (C) green (D) yellow", None), ("A) red\nB) blue\nC) green\nD) yellow", None),
        ("The choices are A, B, C and D.", None), ("The answer is one of A, B, C or D.", None),
        ("Only B is true.", 'B'), ("Answer: (X), where X is one of the letters A, B, C and D. Answer: (B)", 'B'),
        ("Answer: (X)", None), ("A and B are wrong. C is the best answer. D is wrong.", 'C'),
        ("A: incorrect\nB: correct\nC: incorrect\nD: incorrect", 'B'),
        ("(A) Incorrect. (B) Incorrect. (C) Correct. (D) Incorrect.", 'C'), ("The answer is not B.", None),
        ("The answer isn't B.", None), ("The answer is neither A nor B.", None), ("The answer is B or C.", None),
        ("It is not (A).", None), ("The answer is (A) or (B).", None), ("not (A) but (B)", 'B'),
        ("The answer is not A but B.", 'B'), ("The answer is A and C.", None), ("I ruled out (A).", None),
        ("The answer is (B), not (A).", 'B'), ("It could be A or B.", None),
        ("The answer is not (A), so it is (B).", 'B'), ("Both A and B", None), ("I would exclude C.", None),
        (r"\boxed{A and B}", None), (r"\boxed{AB}", None), (r"\boxed{A/B}", None), (r"\boxed{A}, \boxed{B}", None),
        (r"\boxed{A; C}", None), (r"\boxed{A \text{ or } B}", None), (r"\boxed{(B) 4}", 'B'),
        (r"\boxed{\text{B. mitosis}}", 'B'), (r"\boxed{\text{Option C}}", 'C'), (r"\boxed{\mathrm{C}}", 'C'),
        (r"\boxed{C: Apple and B}", 'C'), (r"\boxed{A\&B}", None), ('The answer is "B".', 'B'),
        ("The answer is “B”.", 'B'), ("The answer is **(B)**.", 'B'), ("The answer is [B].", 'B'),
        ("The answer is __B__.", 'B'), ("The answer is {B}.", 'B'), ("The answer is <B>.", 'B'),
        (r"The answer is \textbf{B}.", 'B'), ("_B_", 'B'), (r"The answer is \(B\).", 'B'), ("‘B’", 'B'), ("答案：B", 'B'),
        ("正确答案是C。", 'C'), ("选B", 'B'), ("答案是（B）", 'B'), ("정답은 B입니다", 'B'), ("答案为D。", 'D'), ("故选C。", 'C'), ("因此选A", 'A'),
        ("答案是维生素C", None), ("Respuesta: B", 'B'), ("Réponse : C", 'C'), ("Ответ: B", 'B'), ("I choose D.", 'D'),
        ("so (B).", 'B'), ("Therefore, B.", 'B'), ("It must be D.", 'D'), ("A) red B) green C) blue D) none", None),
        ("A because it is so", 'A'), ("A dog barks. So C.", 'C'),
        ("A is false, B is false, C is true, D is false.", 'C'), ("D is right, while A, B and C are not.", 'D'),
        ("A ❌ B ✅ C ❌ D ❌", 'B'), ("- A: no\n- B: no\n- C: yes\n- D: no", 'C'),
        ("(A) No. (B) Yes. (C) No. (D) No.", 'B'), ("I doubt that it is (A).", None), ("The answer is ~C~", 'C'),
        ("答案不是A，是C。", 'C'), ("答案是B或C", None), ("La respuesta correcta es C.", 'C'),
        ("Die korrekte Antwort lautet B.", 'B'), ("The wrong answer is A.", None),
        ("C.\n\nExplanation: A is for fools, B is for knaves.", 'C'), ("The answer isn't B, it's C.", 'C'),
        ("A correct answer needs care.", None), ("D) depends on facts that are not stated", 'D'),
        ("(C) Incorrect.", None), ("(C) is not true.", None), ("(D) False, True", 'D'),
        ("I think it is C because it is not due to heat.", 'C'), ("not (B), rather C", 'C'),
        ("B and C are both wrong, leaving A.", 'A'), ("(A) is wrong and (C) is right", 'C'),
    ],
    "text": [
        ("The answer is Paris.", 'Paris'), ("Answer: the French Revolution", 'the French Revolution'),
        (r"\boxed{Paris}", 'Paris'), ("Paris", 'Paris'), ("<answer>New York</answer>", 'New York'),
        ("My answer is correct.", None), ("The answer is as follows", None), ("Answer: **Paris**", 'Paris'),
        ("The capital is lovely and so on and on and on.", None), ("Answer:\n```\nParis\n```", 'Paris'),
        ("Answer:\n\n**Explanation:** we add", None), ('Final answer: "Paris"', 'Paris'), ("The answer is: $42$", '42'),
        ("The answer is:\n\n---", None),
    ],
}
# What was cut off: an explicit final answer that is whole, or none.
TRUNCATED = [
    ("number", "so 3+4=7 and then 12", None), ("number", "The answer is 42.\nLet me check 3", "42"), ("number", "x = 42\n", None),
    ("number", "The answer is 42", None), ("number", "The answer is 42.", None), ("number", "The answer is 42. The", "42"),
    ("number", r"\boxed{42} and 7", "42"), ("number", r"\boxed{4", None), ("number", r"\boxed{4} so \boxed{5", None),
    ("number", "#### 42", None), ("number", "#### 42\nAnd 5 more", "42"), ("number", "#### Step 2\nadd 3", None),
    ("number", "<answer>42</answer>", "42"), ("number", "<answer>42", None), ("number", "the answer is 42.5", None),
    ("boxed", "The answer is $42$. And", "42"), ("boxed", "The answer is $42$", None), ("boxed", r"\boxed{7}", "7"),
    ("boxed", r"\boxed{7} or \boxed{", None), ("boxed", "The answer is 42.\n", "42"), ("boxed", "<answer>x</answer>", "x"),
    ("boxed", r"<think>\boxed{3} abc", None), ("letter", "so (B) then", None), ("letter", "The answer is B. Then", "B"),
    ("letter", "The answer is B", None), ("letter", r"\boxed{B}", "B"), ("letter", "B", None), ("letter", "The answer is (B).\n", "B"),
    ("text", "Paris", None), ("text", "The answer is Paris. It", "Paris"), ("text", "The answer is New", None),
]  # fmt: skip
TEN_LETTERS = [
    ("The answer is (J).", "J"), ("I", "I"), ("The answer is I.", "I"), ("I think it is H.", "H"), ("So G is correct.", "G"),
    ("(A) a (B) b (C) c (D) d (E) e (F) f (G) g (H) h (I) i (J) j", None), (r"\boxed{J}", "J"), ("the answer is i.", "I"),
    ("I am sure. The answer is (e)", "E"), ("I conclude that", None), ("The answer is X", None), ("I do know", None),
]  # fmt: skip


@pytest.mark.parametrize("form", ROWS)
def test_form(form: str) -> None:
    wrong = [(text, answer, got) for text, answer in ROWS[form] if (got := extract(text, form)) != answer]
    assert wrong == []


@pytest.mark.parametrize(("form", "text", "answer"), TRUNCATED)
def test_of_a_response_that_was_cut_off_only_an_explicit_answer_counts(form: str, text: str, answer: str | None) -> None:
    assert extract(text, form, truncated=True) == answer


@pytest.mark.parametrize(("text", "answer"), TEN_LETTERS)
def test_ten_choices(text: str, answer: str | None) -> None:
    assert extract(text, "letter", letters="ABCDEFGHIJ") == answer


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="essay"):
        extract("5", "essay")


STALLING = (
    "1 ,111 \\boxed{ \\boxedx the_answer_is_ answer_ { 1/ - # #_1\n _ A_ \\ 9 a= <think> </think> <answer> $ ._ (A)_ A,_B,_C,_ minus_"
    " 1_x_10_ _000 answer:_\n answer:_1_ (A)_is_not,_ \\boxed{1}_and_ \\boxed{x}, * >_ \\frac{1}{2} 5,000 \n negative_ _is \u7b54\u6848\u662f"
    " \\boxed{\\boxed{ ####_ a B_and_ ####_1.\n <answer>1</answer> `"
)


@pytest.mark.parametrize("form", ROWS)
@pytest.mark.parametrize("piece", STALLING.split(" "))
def test_time_grows_no_faster_than_text(form: str, piece: str) -> None:
    # A quadratic pattern would need many seconds for these 40 kB; a linear one needs a few hundredths of one.
    middle = piece.replace("_", " ") * (40_000 // len(piece))
    start = time.process_time()
    extract(middle, form)
    extract(f"answer is{middle}}}", form)
    for first in ("5 ", ""):
        extract(f"\\boxed{{{first}{middle[:150]}!}}", form)
    assert time.process_time() - start < 0.9


@given(st.text(max_size=200), st.sampled_from(list(ROWS)), st.booleans())
@settings(deadline=None)
def test_any_text_gives_an_answer_or_none(text: str, form: str, truncated: bool) -> None:
    answer = extract(text, form, truncated=truncated)
    assert answer is None or answer.strip()


_NO_BOX = st.text(st.characters(exclude_characters="<[\u25c1"), max_size=50).filter(lambda text: "box" not in text)


@given(st.integers(), _NO_BOX)
@settings(deadline=None)
def test_a_boxed_integer_is_found_after_any_text(value: int, before: str) -> None:
    answer = extract(f"{before}. \\boxed{{{value}}}.", AnswerForm.BOXED)
    assert answer == str(value)
    if abs(value) < 10**100:
        assert extract(f"{before}. \\boxed{{{value:,}}}.", AnswerForm.NUMBER) == str(value)


THOUGHTS = [
    ("<think>1 + 1", "</think>"), ("a <think>b</think> c <Thinking>d", "</Thinking>"), ("[THINK]x", "[/THINK]"),
    ('<think about="it">x', "</think>"), ("<seed:think>x", "</seed:think>"), ("\u25c1think\u25b7x", "\u25c1/think\u25b7"),
    ("<|begin_of_thought|>x", "<|end_of_thought|>"), ("<think>1 + 1</think> 2", ""), ("x</think> 2", ""), ("2", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "mark"), THOUGHTS)
def test_what_ends_a_thought(text: str, mark: str) -> None:
    assert closing_mark(text) == mark
    assert spoken(f"{text}{mark}2").endswith("2")
