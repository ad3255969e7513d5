import pytest

from tools.stubs import gen_native_stubs


@pytest.mark.parametrize("module", gen_native_stubs.MODULES)
def test_stub_is_what_the_module_says(module: str) -> None:
    path = gen_native_stubs.stub(module)
    assert gen_native_stubs.generate(module) == path.read_text(), (
        f"{path} is out of date: ./bazelw run //tools/stubs:gen_native_stubs"
    )
