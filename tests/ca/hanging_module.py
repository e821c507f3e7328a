"""A PKCS#11 module that hangs when it is told to: SoftHSM behind a few lines of C, built here."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The table of PKCS#11 2.40: a version, and then 68 functions, of which these have these places.
_SOURCE = r"""
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { GET_FUNCTION_LIST = 3, OPEN_SESSION = 12, SIGN = 43, GENERATE_KEY_PAIR = 59, FUNCTIONS = 68 };

typedef unsigned long word;
typedef struct { unsigned char version[2]; void *function[FUNCTIONS]; } table;
typedef word (*opening)(word, word, void *, void *, word *);
typedef word (*signing)(word, void *, word, void *, word *);
typedef word (*making)(word, void *, void *, word, void *, word, word *, word *);

static table own, *real;

static void hang(const char *while_there) {
    const char *file = getenv(while_there);
    while (file && access(file, F_OK) == 0) usleep(5000);
}

static word open_session(word slot, word flags, void *given, void *notify, word *session) {
    hang("SHIM_HANGS");
    return ((opening) real->function[OPEN_SESSION])(slot, flags, given, notify, session);
}

static word sign(word session, void *data, word length, void *signature, word *its_length) {
    hang("SHIM_HANGS");
    return ((signing) real->function[SIGN])(session, data, length, signature, its_length);
}

static word make(word session, void *way, void *a, word b, void *c, word d, word *public, word *private) {
    hang("SHIM_MAKES_SLOWLY");
    return ((making) real->function[GENERATE_KEY_PAIR])(session, way, a, b, c, d, public, private);
}

word C_GetFunctionList(table **list) {
    void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
    word (*get)(table **) = module ? (word (*)(table **)) dlsym(module, "C_GetFunctionList") : NULL;
    if (get == NULL || get(&real) != 0) return 5;
    memcpy(&own, real, sizeof own);
    own.function[GET_FUNCTION_LIST] = (void *) C_GetFunctionList;
    own.function[OPEN_SESSION] = (void *) open_session;
    own.function[SIGN] = (void *) sign;
    own.function[GENERATE_KEY_PAIR] = (void *) make;
    *list = &own;
    return 0;
}
"""


class HangingModule:
    """The module, and the two switches of it."""

    def __init__(self, folder: Path, real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "hanging.so"
        source = folder / "hanging.c"
        source.write_text(_SOURCE)
        self._signing, self._making = folder / "hangs", folder / "makes slowly"
        monkeypatch.setenv("SHIM_MODULE", str(real))
        monkeypatch.setenv("SHIM_HANGS", str(self._signing))
        monkeypatch.setenv("SHIM_MAKES_SLOWLY", str(self._making))
        options = ["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-pedantic"]
        subprocess.run(["gcc", *options, "-o", self.path, source, "-ldl"], check=True)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let whatever signs or opens a session hang."""
        self._signing.touch()
        try:
            yield
        finally:
            self._signing.unlink()

    @contextmanager
    def making_slowly(self) -> Iterator[None]:
        """Let whatever makes a key hang."""
        self._making.touch()
        try:
            yield
        finally:
            self._making.unlink()


def needs_compiler() -> None:
    """Skip where there is no compiler; `.ci/run` installs one."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
