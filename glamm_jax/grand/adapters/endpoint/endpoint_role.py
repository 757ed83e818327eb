"""What the roles of endpoints have in common: arguments, fingerprint, usage."""

from __future__ import annotations

import hashlib
from typing import Any

from glamm_jax.grand.adapters.endpoint.client import EndpointClient, EndpointOptions
from glamm_jax.grand.adapters.endpoint.usage import TokenPrices

MIN_BATCH = 32  # images or requests of a call


class EndpointRole:
    """A model behind an endpoint.

    Args:
        url: address, such as "http://127.0.0.1:8000/v1".
        model: its name at the endpoint.
        name: of the model in the run; "": `model`.
        api_key_env: environment variable with the key; "": no key.
        max_tokens: of an answer; 0: left out.
        temperature: of the sampling; negative: left out.
        send_seed: whether requests have a seed.
        extra: further fields of each request.
        concurrency: requests at a time, of each worker.
        requests_per_minute: of all workers of this machine together; 0: any.
        timeout: seconds without a byte of the answer.
        attempts: for one request.
        wait: seconds before the second attempt.
        price_prompt: of a million tokens that are read.
        price_completion: of a million tokens that are written.

    Attributes:
        name: of the model.
        fingerprint: changes with model, sampling and prompt; not with the address.
        needs_device: False.
        batch_size: images or requests of a call.

    Raises:
        ConfigError: an argument is impossible.
    """

    path_arguments: tuple[str, ...] = ()
    needs_device = False

    def __init__(
        self,
        url: str,
        model: str,
        name: str = "",
        api_key_env: str = "",
        max_tokens: int = 512,
        temperature: float = 0.0,
        send_seed: bool = True,
        extra: dict[str, Any] | None = None,
        concurrency: int = 8,
        requests_per_minute: float = 0.0,
        timeout: float = 120.0,
        attempts: int = 6,
        wait: float = 1.0,
        price_prompt: float = 0.0,
        price_completion: float = 0.0,
    ):
        options = EndpointOptions(
            url=url,
            model=model,
            api_key_env=api_key_env,
            max_tokens=max_tokens,
            temperature=_temperature(temperature),
            send_seed=send_seed,
            extra=extra or {},
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            timeout=timeout,
            attempts=attempts,
            wait=wait,
            prices=TokenPrices(price_prompt, price_completion),
        )
        self._client = EndpointClient(options)
        self.name = name or model
        self.batch_size = max(MIN_BATCH, concurrency)
        self._identity: list[str] = [options.identity]

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256("\0".join(self._identity).encode()).hexdigest()
        return f"{type(self).__name__}-{digest[:16]}"

    def setup(self) -> None:
        """Check that the endpoint can be used.

        Raises:
            EndpointError: it cannot.
        """
        self._client.open()

    def take_usage(self) -> dict[str, float]:
        """Return tokens, retries, seconds and cost since the last call; see `USAGE_COUNTS`."""
        return self._client.meter.take()


def _temperature(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and value < 0 else value
