import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from liger.models import resolve

pytestmark = pytest.mark.models


def test_converted_smollm2_answers_as_it_should():
    folder = resolve("smollm2-135m-instruct")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)

    answer = output[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."


def test_minilm_comes_with_its_pooling():
    folder = resolve("all-minilm-l6-v2")

    for name in ("config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"):
        assert (folder / name).is_file()
