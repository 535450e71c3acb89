"""Going on from a stored response, reading it, deleting it, and that nobody else can."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from tests.gateway.api.responses.reading import checked, complete, events, post, text_of
from tests.gateway.conftest import Gateway, running_gateway
from tests.support import toy_model
from tests.support.scripted_verifier import ScriptedVerifier

_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


async def test_a_conversation_goes_on(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    first = await complete(gateway, input="say one", instructions="count")
    second = await complete(gateway, input="say two", previous_response_id=first["id"])
    third = (await events(gateway, input="say three", previous_response_id=second["id"]))[-1]["response"]
    assert second["previous_response_id"] == first["id"]
    assert third["previous_response_id"] == second["id"]
    # Instructions are of one response only.
    assert verifier.opened[1].prompt == toy_model.chat_prompt(
        ("user", "say one"), ("assistant", "one"), ("user", "say two")
    )
    assert verifier.opened[2].prompt == toy_model.chat_prompt(
        ("user", "say one"), ("assistant", "one"), ("user", "say two"), ("assistant", "two"), ("user", "say three")
    )
    # A conversation may fork.
    await complete(gateway, input="say other", previous_response_id=first["id"], instructions="be odd")
    assert verifier.opened[3].prompt == toy_model.chat_prompt(
        ("system", "be odd"), ("user", "say one"), ("assistant", "one"), ("user", "say other")
    )


async def test_a_cut_answer_can_be_gone_on_from(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    first = await complete(gateway, input="say hello", max_output_tokens=2)
    assert first["status"] == "incomplete"
    await complete(gateway, input="say more", previous_response_id=first["id"])
    assert verifier.opened[1].prompt == toy_model.chat_prompt(
        ("user", "say hello"), ("assistant", "he"), ("user", "say more")
    )


async def test_a_stored_response_is_what_the_client_saw(gateway: Gateway) -> None:
    made = await complete(gateway, input="say one")
    streamed = (await events(gateway, input="say two"))[-1]["response"]
    async with gateway.http() as http:
        for seen in (made, streamed):
            response = await http.get(f"/v1/responses/{seen['id']}")
            assert response.status_code == 200
            assert checked(response.json()) == seen
    client = gateway.openai()
    assert (await client.responses.retrieve(made["id"])).output_text == "one"


async def test_input_items_by_the_page(gateway: Gateway) -> None:
    given = [{"role": "user", "content": f"word {n}"} for n in range(24)] + [
        {"role": "assistant", "content": "yes"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"},
        {"type": "reasoning", "id": "rs_mine", "summary": [{"type": "summary_text", "text": "so"}]},
        {"role": "user", "content": "say hi"},
    ]
    made = await complete(gateway, input=given)
    path = f"/v1/responses/{made['id']}/input_items"
    async with gateway.http() as http:
        page = (await http.get(path)).json()
        assert page["object"] == "list"
        assert page["has_more"] is True
        assert len(page["data"]) == 20
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        for item in page["data"]:
            _ITEM.validate_python(item, strict=True)
        rest = (await http.get(path, params={"after": page["last_id"], "limit": 100})).json()
        assert rest["has_more"] is False
        items = page["data"] + rest["data"]
        assert len({item["id"] for item in items}) == len(items) == 29
        assert items[0]["content"] == [{"type": "input_text", "text": "say hi"}]
        assert items[1]["id"] == "rs_mine"
        assert (await http.get(path, params={"order": "asc", "limit": 100})).json()["data"] == items[::-1]
        end = (await http.get(path, params={"after": items[-1]["id"]})).json()
        assert (end["data"], end["has_more"]) == ([], False)
        for bad in ({"limit": 0}, {"limit": 101}, {"limit": "x"}, {"order": "up"}, {"after": "msg_0"}):
            response = await http.get(path, params=bad)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == next(iter(bad))
    listed = [item async for item in gateway.openai().responses.input_items.list(made["id"], limit=10)]
    assert [item.id for item in listed] == [item["id"] for item in items]  # type: ignore[union-attr]


async def test_items_can_be_named_instead_of_sent_again(gateway: Gateway, verifier: ScriptedVerifier) -> None:
    made = await complete(gateway, input="say one")
    async with gateway.http() as http:
        (asked,) = (await http.get(f"/v1/responses/{made['id']}/input_items")).json()["data"]
    again = [
        {"type": "item_reference", "id": asked["id"]},
        {"id": made["output"][0]["id"]},
        {"role": "user", "content": "say two"},
    ]
    await complete(gateway, input=again)
    assert verifier.opened[1].prompt == toy_model.chat_prompt(
        ("user", "say one"), ("assistant", "one"), ("user", "say two")
    )
    # The SDK's own way: the output as it came, put back into the input.
    await complete(gateway, input=[{"role": "user", "content": "say one"}, *made["output"], *again[2:]], store=False)
    assert verifier.opened[2].prompt == verifier.opened[1].prompt


async def test_deleted_means_gone(gateway: Gateway) -> None:
    first = await complete(gateway, input="say one")
    second = await complete(gateway, input="say two", previous_response_id=first["id"])
    async with gateway.http() as http:
        response = await http.delete(f"/v1/responses/{first['id']}")
        assert response.json() == {"id": first["id"], "object": "response", "deleted": True}
        for method, end in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
            response = await http.request(method, f"/v1/responses/{first['id']}{end}")
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "response_not_found"
        assert (await http.get(f"/v1/responses/{second['id']}")).status_code == 200
        response = await http.get(f"/v1/responses/{second['id']}", params={"stream": "true"})
        assert response.status_code == 400
        assert (await http.post(f"/v1/responses/{second['id']}/cancel")).status_code == 400
    # Who follows what is gone cannot go on.
    response = await post(gateway, {"input": "say three", "previous_response_id": second["id"]})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "previous_response_not_found"
    assert first["id"] in response.json()["error"]["message"]
    await gateway.openai().responses.delete(second["id"])


@pytest.mark.parametrize(("owner", "tenant"), [("bob", "default"), ("ann", "elsewhere")])
async def test_nobody_else_sees_it(gateway: Gateway, owner: str, tenant: str) -> None:
    ann, same = [await gateway.accounts.create("ann", "default", ["inference"]) for _ in range(2)]
    other = await gateway.accounts.create(owner, tenant, ["inference"])
    made = await complete(gateway, ann, input="say one")
    for method, end in (("GET", ""), ("GET", "/input_items"), ("DELETE", "")):
        async with gateway.http(other) as http:
            assert (await http.request(method, f"/v1/responses/{made['id']}{end}")).status_code == 404
    response = await post(gateway, {"input": "say x", "previous_response_id": made["id"]}, other)
    assert response.json()["error"]["code"] == "previous_response_not_found"
    reference = {"type": "item_reference", "id": made["output"][0]["id"]}
    response = await post(gateway, {"input": [reference]}, other)
    assert response.json()["error"]["code"] == "item_not_found"
    # Another key of the same owner does.
    await complete(gateway, same, input="say two", previous_response_id=made["id"])
    async with gateway.http(same) as http:
        assert (await http.get(f"/v1/responses/{made['id']}")).status_code == 200
    edge = await gateway.accounts.create("ann", "default", ["edge"])
    async with gateway.http(edge) as http:
        assert (await http.get(f"/v1/responses/{made['id']}")).status_code == 403
    async with gateway.http("") as http:
        assert (await http.get(f"/v1/responses/{made['id']}")).status_code == 401


async def test_ids_that_were_never_ours_are_not_there(gateway: Gateway) -> None:
    async with gateway.http() as http:
        for identity in ("resp_1", "resp_%00", "%F0%9F%98%80", "resp_" + "0" * 32):
            assert (await http.get(f"/v1/responses/{identity}")).status_code == 404
            assert (await http.delete(f"/v1/responses/{identity}")).status_code == 404
            assert (await http.get(f"/v1/responses/{identity}/input_items")).status_code == 404
    for identity in ("\0", "", "resp_" + "0" * 32, "x" * 512):
        response = await post(gateway, {"input": "say x", "previous_response_id": identity})
        if identity:
            assert response.json()["error"]["code"] == "previous_response_not_found"
        else:
            assert response.status_code == 200


async def test_what_is_not_to_be_stored_is_not(gateway: Gateway, tmp_path) -> None:
    made = await complete(gateway, input="say secret words", store=False)
    assert made["store"] is False
    with pytest.raises(openai.NotFoundError):
        await gateway.openai().responses.retrieve(made["id"])
    assert not any(b"secret words" in file.read_bytes() for file in tmp_path.rglob("gateway.db*"))
    await complete(gateway, input="say secret words")
    assert any(b"secret words" in file.read_bytes() for file in tmp_path.rglob("gateway.db*"))


async def test_an_operator_may_switch_it_off(tmp_path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier, store_responses=False) as gateway:
        made = await complete(gateway, input="say secret words", store=True)
        assert made["store"] is False
        assert text_of(made) == "secret words"
        response = await post(gateway, {"input": "say two", "previous_response_id": made["id"]})
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "not_stored"
        response = await post(gateway, {"input": [{"type": "item_reference", "id": made["output"][0]["id"]}]})
        assert response.json()["error"]["code"] == "not_stored"
        async with gateway.http() as http:
            assert (await http.get(f"/v1/responses/{made['id']}")).status_code == 404
    assert not any(b"secret words" in file.read_bytes() for file in tmp_path.rglob("gateway.db*"))


async def test_it_outlives_the_gateway(tmp_path, verifier: ScriptedVerifier) -> None:
    async with running_gateway(tmp_path, verifier) as gateway:
        first = await complete(gateway, input="say one")
    async with running_gateway(tmp_path, verifier) as gateway:
        assert text_of(await complete(gateway, input="say two", previous_response_id=first["id"])) == "two"
    assert verifier.opened[1].prompt == toy_model.chat_prompt(
        ("user", "say one"), ("assistant", "one"), ("user", "say two")
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_database_that_fails_costs_nobody_an_answer(gateway: Gateway, stream: bool) -> None:
    first = await complete(gateway, input="say one")
    database = gateway.state.responses._database  # type: ignore[union-attr]
    async with database.begin() as connection:
        await connection.exec_driver_sql("DROP TABLE responses")
    if stream:
        made = (await events(gateway, input="say two"))[-1]["response"]
    else:
        made = await complete(gateway, input="say two")
    assert text_of(made) == "two"
    assert (made["status"], made["store"]) == ("completed", False)
    response = await post(gateway, {"input": "say x", "previous_response_id": first["id"]})
    assert response.status_code >= 500
