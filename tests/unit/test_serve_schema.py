"""The running application against its own OpenAPI: schemathesis makes up requests, right ones and wrong ones."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

# More of them: `schemathesis run http://127.0.0.1:8000/openapi.json -H "Authorization: Bearer TOKEN"`.
EXAMPLES = 8
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
    unsupported_method,
]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_the_application_keeps_its_own_description(server, mode):
    headers = server.token(name="schema")
    schema = schemathesis.openapi.from_asgi("/openapi.json", server.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 23
    for operation in operations:

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def keeps_its_word(case):
            case.call_and_validate(headers=headers, checks=CHECKS)

        try:
            keeps_its_word()
        except hypothesis.errors.Unsatisfiable:  # nothing can be wrong about a route without parameters
            assert mode == schemathesis.GenerationMode.NEGATIVE
