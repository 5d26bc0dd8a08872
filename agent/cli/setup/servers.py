"""Find servers with OpenAI's chat format on this machine and on given hosts, and the models that they offer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

# Ports on which these servers listen unless told otherwise
PORTS = {11434: "Ollama", 8000: "vLLM", 1234: "LM Studio", 8080: "llama.cpp or LocalAI", 30000: "SGLang"}
TIMEOUT_S = 3.0
_MAX_MODELS = 64  # asked for their capabilities, one request each
# Parts of the names of models that see pictures, for servers that do not say what a model can do
_VISION_NAMES = (
    "-vl", "vl:", "vl-", "vlm", "vision", "llava", "minicpm-v", "moondream", "gemma3", "gemma-3", "gemma4", "pixtral",
    "internvl", "smolvlm", "granite-vision", "bakllava", "phi-3.5-v", "phi-4-multimodal", "llama4", "llama-4",
    "mistral-small3", "mistral-small-3", "qwen3.5", "gpt-4o", "gpt-4.1", "gpt-5", "omni",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A model on a server. sees: whether it reads pictures; None: unknown. thinks: whether it thinks aloud first."""

    name: str
    sees: bool | None = None
    thinks: bool = False
    context: int | None = None  # tokens, where the server says so


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers `GET /v1/models`. base_url: as in `answerer.base_url`."""

    base_url: str
    kind: str  # "Ollama"; by its port where it does not say
    models: tuple[Model, ...]

    def vision_models(self) -> list[Model]:
        """Return the models that see, best known first; without any that is known to see, those that might."""
        seeing = [model for model in self.models if model.sees]
        return seeing or [model for model in self.models if model.sees is None]


async def find_servers(
    hosts: Sequence[str], ports: Sequence[int] = tuple(PORTS), *, key: str | None = None
) -> list[Server]:
    """Ask each of the ports of each host, at the same time, and return the servers that answer.

    hosts: names or addresses; "host:port" and whole base addresses name one server each. key: API key; it is sent
    to whole base addresses only.
    """
    bases = [base for host in hosts for base in _bases(host, ports)]
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as http:
        whole = {host.rstrip("/") for host in hosts}
        keys = {base: key if base in whole else None for base in bases}
        found = await asyncio.gather(*(ask_server(http, base, keys[base]) for base in keys))
    return [server for server in found if server is not None]


def _bases(host: str, ports: Sequence[int]) -> list[str]:
    if "://" in host:
        return [host.rstrip("/")]
    if host.count(":") == 1 or "]:" in host:
        return [f"http://{host}/v1"]
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return [f"http://{shown}:{port}/v1" for port in ports]


async def ask_server(http: httpx.AsyncClient, base_url: str, key: str | None = None) -> Server | None:
    """Return the server at `base_url` with its models; None if nothing there lists models in OpenAI's format."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        response = await http.get(f"{base_url}/models", headers=headers)
        listed = response.json().get("data") if response.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError):
        return None
    if not isinstance(listed, list):
        return None
    root = base_url.removesuffix("/v1")
    listed = [each for each in listed if isinstance(each, dict) and isinstance(each.get("id"), str)]
    if any(each.get("owned_by") == "vilamp" for each in listed):  # an agent of this project, which cannot answer itself
        return None
    names = [each["id"] for each in listed]
    shown = await asyncio.gather(*(_json(http, "POST", f"{root}/api/show", {"model": n}) for n in names[:1]))
    if shown and "capabilities" in shown[0]:
        rest = await asyncio.gather(
            *(_json(http, "POST", f"{root}/api/show", {"model": name}) for name in names[1:_MAX_MODELS])
        )
        models = tuple(map(_ollama_model, names, [*shown, *rest]))
        return Server(base_url, "Ollama", models)
    props, studio = await asyncio.gather(
        _json(http, "GET", f"{root}/props"), _json(http, "GET", f"{root}/api/v0/models")
    )
    types = {each.get("id"): each.get("type") for each in studio.get("data", ()) if isinstance(each, dict)}
    kind = "LM Studio" if types else "llama.cpp" if "modalities" in props else PORTS.get(httpx.URL(base_url).port or 0)
    models = tuple(_model(each, props, types) for each in listed)
    return Server(base_url, kind or "a server", models)


def _ollama_model(name: str, shown: dict[str, Any]) -> Model:
    """Return what Ollama's `/api/show` says of a model."""
    able = [str(each) for each in shown.get("capabilities") or ()]
    info = shown.get("model_info")
    lengths = [
        value
        for key, value in (info.items() if isinstance(info, dict) else ())
        if key.endswith(".context_length") and isinstance(value, int)
    ]
    return Model(name, "vision" in able, "thinking" in able, lengths[0] if lengths else None)


def _model(listed: dict[str, Any], props: dict[str, Any], types: dict[Any, Any]) -> Model:
    """Return what is known of a model of another server.

    listed: its entry of `GET /v1/models`. props: llama.cpp's `/props`. types: LM Studio's type of each model.
    """
    name, context = str(listed["id"]), listed.get("max_model_len")
    modalities = props.get("modalities")
    sees = any(part in name.lower() for part in _VISION_NAMES) or None
    if name in types:
        sees = types[name] == "vlm"
    elif isinstance(modalities, dict) and isinstance(modalities.get("vision"), bool):
        sees = modalities["vision"]
    return Model(name, sees, context=context if isinstance(context, int) else None)


async def _json(http: httpx.AsyncClient, method: str, url: str, body: Any = None) -> dict[str, Any]:
    """Return the JSON object of a response; {} if there is none."""
    try:
        response = await http.request(method, url, json=body)
        told = response.json() if response.is_success else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
