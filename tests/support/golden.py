"""Golden greedy outputs of the packaged chat model, made by transformers: `make golden` renews them.

Run as `python -m tests.support.golden`.
"""

import json
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).parent.parent / "golden" / "smollm2_greedy.json"
MODEL: Final = "smollm2-135m-instruct"
NUM_TOKENS: Final = 64

PROMPTS: Final = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "List three primary colours:\n1.",
    "import numpy as np\n\nx = np.",
    "La tour Eiffel se trouve",
    "Die Hauptstadt von Deutschland ist",
    "日本の首都は",
    "🙂🙃 Emoji are",
    "1 + 1 = 2\n2 + 2 = 4\n3 + 3 =",
    "Q: What is photosynthesis?\nA:",
    "The quick brown fox",
    "In the beginning",
    "SELECT name FROM users WHERE",
    "Dear Sir or Madam,\n\nI am writing to",
    "\n\n\n",
    "a",
    (
        "The following is a list of the planets of the solar system, in order of their distance from the Sun, with a "
        "short description of each, its number of moons, and the year in which it was first visited by a spacecraft: "
        "Mercury,"
    ),
    "To be, or not to be, that is the question:",
)


def renew() -> dict[str, Any]:
    """Generate with transformers, one prompt at a time, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from liger.models import resolve

    folder = resolve(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cases = []
    for number, prompt in enumerate(PROMPTS):
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        prompt_ids = inputs["input_ids"][0].tolist()
        cases.append({"prompt_ids": prompt_ids, "prompt": prompt, "output_ids": output[0, len(prompt_ids) :].tolist()})
        print(f"{number + 1}/{len(PROMPTS)} {prompt!r}", flush=True)
    return {"model": MODEL, "cases": cases}


if __name__ == "__main__":
    PATH.write_text(json.dumps(renew(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
