"""ONNX Runtime's execution providers: which are installed here, in which order they are tried, and on what they run.

Some come inside the onnxruntime package, others as packages of their own with a library that is registered at run time
(https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries/usage.html).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import onnxruntime as ort

from edge_agent.onnx.contract import VariantName

log = logging.getLogger(__name__)

ort.disable_telemetry_events()  # the builds that do not read the variable of this package's __init__, on Windows


@dataclass(frozen=True)
class Provider:
    """An execution provider: its name in the settings and in ONNX Runtime, and the module of its own package if any.

    `on_cpu` is for one that may also run on the CPU, where it is not better than ONNX Runtime itself: it is chosen by
    itself only for another device.
    """

    name: str
    runtime_name: str
    module: str = ""
    on_cpu: bool = False


# In the order in which they are tried: NPUs first, which leave CPU and GPU to the user's other programs.
PROVIDERS = (
    Provider("qnn", "QNNExecutionProvider", "onnxruntime_qnn"),
    Provider("coreml", "CoreMLExecutionProvider"),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime_ep_openvino", on_cpu=True),
    Provider("directml", "DmlExecutionProvider"),
    Provider("nvtensorrtrtx", "NvTensorRTRTXExecutionProvider", "onnxruntime_ep_nv_tensorrt_rtx"),
    Provider("cuda", "CUDAExecutionProvider"),
    Provider("cpu", "CPUExecutionProvider"),
)
CPU = PROVIDERS[-1]


@dataclass(frozen=True)
class ProviderDevice:
    """A provider on one kind of device. `devices` are ONNX Runtime's own, of a registered library; empty for others."""

    provider: Provider
    kind: str
    devices: tuple[Any, ...] = ()

    @property
    def variant(self) -> VariantName:
        """The variant of a graph that suits the provider. (OpenVINO runs int8 in a third of the speed, on CPUs too.)"""
        return "int8" if self.provider == CPU else "fp16"

    @property
    def description(self) -> str:
        return self.provider.name if self.provider.name == self.kind else f"{self.provider.name} on {self.kind}"

    def new_session(self, graph: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
        """Load a graph. What the provider has no kernel for runs on the CPU. Raises what ONNX Runtime raises."""
        if self.devices:
            own: dict[str, str] = {}
            if self.provider.name == "openvino" and self.kind == "cpu":  # it has threads of its own
                own["load_config"] = json.dumps({"CPU": {"INFERENCE_NUM_THREADS": str(options.intra_op_num_threads)}})
            options.add_provider_for_devices(list(self.devices), own)
            return ort.InferenceSession(graph, options)
        names = [self.provider.runtime_name] if self.provider == CPU else [self.provider.runtime_name, CPU.runtime_name]
        session = ort.InferenceSession(graph, options, providers=names, enable_fallback=0)
        if self.provider.runtime_name not in session.get_providers():
            raise RuntimeError("its libraries do not load")
        return session


def find_devices(wanted: str) -> Iterator[ProviderDevice]:
    """The devices to try in turn, best first: those of the provider `wanted`, or for "auto" of all that are installed.

    Raises ValueError when a provider is wanted that is not installed here.
    """
    found = False
    for provider in PROVIDERS:
        if wanted not in ("auto", provider.name):
            continue
        for device in _devices_of(provider):
            if wanted == "auto" and provider.on_cpu and device.kind == "cpu":
                continue
            found = True
            yield device
    if not found:
        raise ValueError(f"the execution provider {wanted} is not installed here; installed: {', '.join(installed())}")


def installed() -> list[str]:
    """The names of the providers that are installed here."""
    return [provider.name for provider in PROVIDERS if _devices_of(provider)]


def _devices_of(provider: Provider) -> list[ProviderDevice]:
    if provider.module and find_spec(provider.module) is not None and _register(provider):
        by_kind: dict[str, list[Any]] = {}
        for device in ort.get_ep_devices():
            if device.ep_name == provider.runtime_name:
                by_kind.setdefault(device.device.type.name.lower(), []).append(device)
        order = sorted(by_kind, key=("npu", "gpu", "cpu").index)
        return [ProviderDevice(provider, kind, tuple(by_kind[kind][:1])) for kind in order]
    if provider.runtime_name in ort.get_available_providers():
        return [ProviderDevice(provider, "cpu" if provider == CPU else "gpu")]
    return []


@cache
def _register(provider: Provider) -> bool:
    """Register the library of a provider's package, once per process."""
    try:
        library = import_module(provider.module).get_library_path()
        ort.register_execution_provider_library(provider.runtime_name, library)
    except Exception as error:  # whatever a vendor's package raises, there are other providers
        log.warning("execution provider %s: %s", provider.name, (str(error) or type(error).__name__).splitlines()[0])
        return False
    return True
