"""What the configuration files of both daemons have: names, the TLS table, the log table."""

from __future__ import annotations

import re
import ssl
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shared.limits import NAME_CHARS_MAX
from shared.settings import Problem, file_problem, key_error

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"should be up to {NAME_CHARS_MAX} of a-z, 0-9, '.', '_' and '-', beginning with a "
            "letter or a digit"
        )
    return value


Name = Annotated[str, AfterValidator(_name)]
NameOrNone = Annotated[str, AfterValidator(lambda value: _name(value) if value else value)]


class Section(BaseModel):
    """A table of a configuration file: without unknown keys, and never shown in errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class TlsConfig(Section):
    """The certificate that a daemon shows. Both files or neither."""

    cert_file: str = Field(default="", description="PEM file with the certificate chain")
    key_file: str = Field(default="", description="PEM file with the private key")

    @property
    def enabled(self) -> bool:
        """Whether there is a certificate to use."""
        return bool(self.cert_file)

    def problems(self) -> list[Problem]:
        """Nothing if the two files can be used together, else why not."""
        if not self.enabled:
            return []
        unread = file_problem("tls.cert_file", self.cert_file)
        unread += file_problem("tls.key_file", self.key_file)
        if unread:
            return unread
        try:
            # Without a password: nobody can be asked for one when a daemon starts.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.cert_file, self.key_file, password=""
            )
        except OSError as error:
            why = f"cannot be used with {self.key_file} ({error}): both must be PEM files that"
            return [Problem("tls.cert_file", f"{self.cert_file} {why} belong together")]
        return []

    @model_validator(mode="after")
    def _both_or_neither(self) -> TlsConfig:
        if bool(self.cert_file) != bool(self.key_file):
            raise key_error(
                "key_file" if self.cert_file else "cert_file", "missing; both files or neither"
            )
        return self


class LogConfig(Section):
    """What is logged and how."""

    format: Literal["json", "console"] = Field(default="json", description="json or console")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least level that is logged"
    )
