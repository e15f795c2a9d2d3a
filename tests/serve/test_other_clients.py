"""Other people's clients against the running service, with their defaults; those that are installed (`.[clients]`)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.serve.conftest import ROOT, Service

IMAGE = ROOT / "lab" / "held_out" / "0026.jpg"
DATA = base64.b64encode(IMAGE.read_bytes()).decode()
URI = f"data:image/jpeg;base64,{DATA}"
PARTS: list[Any] = [
    {"type": "text", "text": "Write alt text under 120 characters."},
    {"type": "image_url", "image_url": {"url": URI}},
]
QUESTION = "what is in the top left?"


def test_ollama(service: Service) -> None:
    ollama: Any = pytest.importorskip("ollama")
    client = ollama.Client(host=service.url)
    assert [model.model for model in client.list().models] == ["demo"]
    said = client.generate(model="demo", prompt="Describe this image in detail.", images=[str(IMAGE)])
    assert "hamburger" in said.response
    pieces = client.generate(model="demo", prompt="Describe this image in detail.", images=[str(IMAGE)], stream=True)
    assert "".join(piece.response for piece in pieces) == said.response
    answer = client.chat(model="demo", messages=[{"role": "user", "content": QUESTION, "images": [str(IMAGE)]}])
    assert "hamburger" in answer.message.content
    with pytest.raises(ollama.ResponseError, match="not served here"):
        client.generate(model="llava", prompt="x", images=[str(IMAGE)])


def test_langchain(service: Service) -> None:
    langchain: Any = pytest.importorskip("langchain_openai")
    where: Any = {"base_url": f"{service.url}/v1", "api_key": "none"}
    chat = langchain.ChatOpenAI(model="demo", **where)
    said = chat.invoke([{"role": "user", "content": PARTS}])
    assert 20 < len(said.content) <= 120
    assert "".join(piece.content for piece in chat.stream([{"role": "user", "content": PARTS}])) == said.content
    assert chat.invoke("Hi").content.startswith("This service describes")
    vectors = langchain.OpenAIEmbeddings(model="demo", check_embedding_ctx_length=False, **where)
    assert len(vectors.embed_documents([f"text {number}" for number in range(100)])) == 100


def test_litellm(service: Service) -> None:
    litellm: Any = pytest.importorskip("litellm")
    where: Any = {"model": "openai/demo", "api_base": f"{service.url}/v1", "api_key": "none"}
    health = litellm.completion(messages=[{"role": "user", "content": "Hey how's it going?"}], max_tokens=5, **where)
    assert health.choices[0].message.content.startswith("This service describes")
    said = litellm.completion(messages=[{"role": "user", "content": PARTS}], **where)
    assert 20 < len(said.choices[0].message.content) <= 120
    answered = litellm.responses(
        input=[
            {
                "role": "user",
                "content": [{"type": "input_text", "text": QUESTION}, {"type": "input_image", "image_url": URI}],
            }
        ],
        **where,
    )
    assert "hamburger" in answered.output[0].content[0].text


def test_llama_index(service: Service) -> None:
    embeddings: Any = pytest.importorskip("llama_index.embeddings.openai")
    like: Any = pytest.importorskip("llama_index.llms.openai_like")
    types: Any = pytest.importorskip("llama_index.core.base.llms.types")
    where: Any = {"api_base": f"{service.url}/v1", "api_key": "none"}
    vectors = embeddings.OpenAIEmbedding(model_name="demo", **where)
    assert len(vectors.get_text_embedding_batch([f"text {number}" for number in range(100)])) == 100
    chat = like.OpenAILike(model="demo", is_chat_model=True, **where)
    image = types.ImageBlock(image=IMAGE.read_bytes(), image_mimetype="image/jpeg")
    blocks = [types.TextBlock(text="Describe it."), image]
    assert "hamburger" in str(chat.chat([types.ChatMessage(role="user", blocks=blocks)]).message.content)


def test_openai_for_node_and_the_ai_sdk(service: Service) -> None:
    """`npm install --no-save openai ai @ai-sdk/openai-compatible` at the root installs them."""
    node = shutil.which("node")
    if node is None or not (ROOT / "node_modules" / "openai").is_dir():
        pytest.skip("node or its packages are not installed")
    command = [node, str(ROOT / "tests" / "serve" / "node_clients.mjs"), service.url, str(IMAGE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert 20 < len(found["chat"]) <= 120
    assert {found[name] for name in ("streamed", "responses", "aiText", "aiStream")} == {found["chat"]}
    assert (found["models"], found["vectors"], found["refused"]) == (["demo"], 2, 404)
