"""Several threads share one model, as in a server: each gets the experts of its own clip."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny_whisper import EXPERTS, WINDOW, noise, tiny_moe
from transformers.generation.streamers import BaseStreamer

pytestmark = pytest.mark.unit
THREADS, CALLS = 4, 24


def together(jobs: list) -> list:
    """Results of the jobs, several at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda job: job(), jobs))


def weights(*experts: int) -> torch.Tensor:
    """One expert for each row, `(rows, experts)`."""
    return torch.eye(EXPERTS)[list(experts)]


def texts(model, features, chosen, **options) -> list:
    with torch.inference_mode():
        return model.generate(features, expert_weights=chosen, max_new_tokens=8, **options).tolist()


@pytest.mark.parametrize("mixture", ["weights", "logits"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_batches_of_different_sizes_with_weights_of_their_own(mixture, options):
    model = tiny_moe(mixture=mixture, routing="soft")
    inputs = [(noise(1 + i % 3, WINDOW, seed=i), weights(*[i % EXPERTS] * (1 + i % 3))) for i in range(CALLS)]
    alone = [texts(model, *given, **options) for given in inputs]
    assert len({str(one) for one in alone}) > CALLS // 2
    assert together([lambda given=given: texts(model, *given, **options) for given in inputs]) == alone


@pytest.mark.parametrize("routing", ["hard", "top_k", "soft"])
def test_the_router_of_each(routing):
    model = tiny_moe(routing=routing)
    inputs = [noise(1 + i % 2, WINDOW, seed=i) for i in range(CALLS)]
    alone = [texts(model, features, None) for features in inputs]
    assert together([lambda features=features: texts(model, features, None) for features in inputs]) == alone


class Collected(BaseStreamer):
    """What a streamer is given, token by token."""

    def __init__(self):
        self.tokens: list[int] = []

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        pass


def test_streams():
    model = tiny_moe()

    def stream(i: int) -> list[int]:
        collected = Collected()
        texts(model, noise(1, WINDOW, seed=i), weights(i % EXPERTS), streamer=collected)
        return collected.tokens

    alone = [stream(i) for i in range(CALLS)]
    assert together([lambda i=i: stream(i) for i in range(CALLS)]) == alone


def test_training_in_one_thread_and_transcribing_in_another():
    model, features = tiny_moe().train(), noise(2, WINDOW)
    labels = torch.randint(0, 80, (2, 5), generator=torch.Generator().manual_seed(0))

    def gradient(between=lambda: None) -> torch.Tensor:
        model.zero_grad()
        torch.manual_seed(0)
        loss = model(features, labels=labels, expert_weights=weights(0, 1)).loss
        between()
        loss.backward()
        return model.model.decoder.layers[0].fc1.lora_b.grad.clone()

    def transcribe_elsewhere():
        thread = threading.Thread(target=lambda: texts(model, features[:1], weights(3)))
        thread.start()
        thread.join()

    model.activation_checkpointing_enable()
    torch.testing.assert_close(gradient(transcribe_elsewhere), gradient())
