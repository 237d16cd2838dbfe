"""Compose, Prometheus, Grafana and Kubernetes: the files are read, and name only what there is."""

import asyncio
import json
import re

import httpx
import pytest
import yaml
from dockerfile import ROOT, SERVER, steps_of
from prometheus_client.parser import text_string_to_metric_families

from kv_cache_rl.adapters.http.app import create_app
from kv_cache_rl.adapters.http.metrics import numbers_of
from kv_cache_rl.adapters.http.server import check_hosts
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.spec import task

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
BOARD = json.loads((DEPLOY / "grafana" / "board.json").read_text())
DEPLOYMENT, CLAIM, SERVICE = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(LAB,) = POD["containers"]
IMAGE = steps_of(*SERVER)
OF_PROMQL = {"rate", "sum", "by"}


@pytest.fixture(scope="module")
def exported():
    """Name → labels of what /metrics has while a server is simulated."""
    app = create_app()
    lab = app.state.lab
    lab.engines.show(lab.engines.enter(), numbers_of(new_state(task("easy", ticks=5), 0)))
    lab.metrics.answered(200)
    found = text_string_to_metric_families(lab.metrics.text().decode())
    return {one.name: set(one.labels) for family in found for one in family.samples}


def named(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\([a-z_, ]*\)(?= \()|\"[^\"]*\"", "", expression)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", bare)) - OF_PROMQL


def test_every_expression_of_the_board_asks_for_metrics_and_labels_that_there_are(exported):
    asked = [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]
    for expression in asked:
        names = named(expression)
        assert names and names <= set(exported), f"{expression}: {names - set(exported)}"
        labels = set(re.findall(r"(\w+)=~?\"", expression)) | set(re.findall(r"by \((\w+)\)", expression))
        assert all(labels <= exported[name] for name in names), expression
    for variable in BOARD["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", variable["query"]["query"]).groups()
        assert label in exported[metric]


def test_the_board_shows_all_that_the_server_exports(exported):
    shown = {
        name for panel in BOARD["panels"] for target in panel["targets"] for name in named(target["expr"])
    }
    assert {name for name in exported if not name.endswith("_created")} == shown


def test_a_name_that_is_not_exported_would_be_found(exported):
    assert named('rate(vllm:nothing{engine="0"}[1m])') == {"vllm:nothing"}
    assert not named('sum by (status) (vllm:nothing{a=~"$b"}) / up') <= set(exported)


def test_panels_have_numbers_and_places_of_their_own():
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    cells = [
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) < 24


def test_grafana_finds_its_source_and_its_board():
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"][0]
    (boards,) = yaml.safe_load((DEPLOY / "grafana" / "boards.yaml").read_text())["providers"]
    assert {panel["datasource"]["uid"] for panel in BOARD["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    mounts = dict(volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"])
    for local in mounts:
        assert (DEPLOY / local).is_file(), local
    assert mounts["./grafana/board.json"] == f"{boards['options']['path']}/board.json"
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounts["./grafana/board.json"]


def names_of(service: dict) -> tuple[str, ...]:
    return tuple(service["environment"]["KV_CACHE_RL_ALLOW_HOST"].split(","))


def test_prometheus_asks_the_server_under_a_name_that_it_answers_to():
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target.split(":")[0] in COMPOSE["services"] and job["metrics_path"] == "/metrics"
    app = create_app(hosts=names_of(COMPOSE["services"]["lab"]))

    async def ask() -> int:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url=f"http://{target}"
        ) as client:
            return (await client.get("/metrics")).status_code

    assert asyncio.run(ask()) == 200


def test_compose_pins_images_and_opens_ports_to_this_machine_alone():
    for name, service in COMPOSE["services"].items():
        assert re.search(r":v?\d+\.\d+", service["image"]) or service["image"] == "kv-cache-rl", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).is_file(), volume
    assert (DEPLOY / COMPOSE["services"]["lab"]["build"] / "Dockerfile").is_file()
    lab = COMPOSE["services"]["lab"]
    assert lab["read_only"] and lab["cap_drop"] == ["ALL"] and "/tmp" in lab["tmpfs"]


def test_kubernetes_probes_what_the_server_answers():
    (port,) = [step.rest for step in IMAGE if step.word == "EXPOSE"]
    assert LAB["ports"][0]["containerPort"] == int(port)
    routes = set(create_app().openapi()["paths"])
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = LAB[kind]["httpGet"]
        assert asked["path"] in routes and asked["port"] == LAB["ports"][0]["name"], kind
    (variable,) = [one["value"] for one in LAB["env"] if one["name"] == "KV_CACHE_RL_ALLOW_HOST"]
    known = {one["name"] for one in LAB["env"]}
    assert set(re.findall(r"\$\((\w+)\)", variable)) <= known, "the kubelet asks for the pod's address"
    check_hosts("0.0.0.0", tuple(re.sub(r"\$\(\w+\)", "10.1.2.3", variable).split(",")))
    assert DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/path"] in routes


def test_kubernetes_gives_the_server_no_more_than_it_needs():
    (user,) = [step.rest for step in IMAGE if step.word == "USER"]
    assert POD["securityContext"]["runAsUser"] == int(user) and POD["securityContext"]["runAsNonRoot"]
    allowed = LAB["securityContext"]
    assert allowed["readOnlyRootFilesystem"] and not allowed["allowPrivilegeEscalation"]
    assert allowed["capabilities"] == {"drop": ["ALL"]}
    assert set(LAB["resources"]) == {"requests", "limits"}
    mounts = {mount["mountPath"] for mount in LAB["volumeMounts"]}
    assert mounts == {"/home/user/runs", "/tmp"}, "what the server writes"
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in LAB["volumeMounts"]} == volumes
    assert POD["volumes"][0]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]


def test_kubernetes_selects_its_own_pods():
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"] == labels
    assert SERVICE["spec"]["ports"][0]["targetPort"] == LAB["ports"][0]["name"]
    assert DEPLOYMENT["spec"]["replicas"] == 1, "sessions live in the process"
