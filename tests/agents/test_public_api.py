import subprocess
import sys

import agents


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    for name in agents.__all__:
        assert getattr(agents, name) is not None
        assert f"`{name}`" in (agents.__doc__ or ""), name


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "vllm", "gymnasium", "cir_env", "matplotlib"}
    code = f"import sys, agents; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
