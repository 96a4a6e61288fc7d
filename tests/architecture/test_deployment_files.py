"""Dockerfile and compose file, as far as they can be checked without a container engine."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("metagraft:")}
SECRET = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|AUTH")
REQUIRED_VARIABLE = re.compile(r"\$\{\w+:\?[^}]+\}")


def dockerfile() -> list[tuple[str, str]]:
    """Instructions as (name, arguments), continuation lines joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    lines = [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]
    pairs = [line.split(maxsplit=1) for line in lines]
    return [(name.upper(), " ".join(arguments.split())) for name, arguments in pairs]


def last_stage() -> list[tuple[str, str]]:
    instructions = dockerfile()
    start = max(i for i, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[start:]


def position(pattern: str) -> int:
    """Index of the one instruction that matches."""
    found = [i for i, (_, arguments) in enumerate(dockerfile()) if re.search(pattern, arguments)]
    assert len(found) == 1, f"{pattern} is found {len(found)} times"
    return found[0]


def torch_version(text: str) -> str:
    match = re.search(r"torch==(\d+\.\d+\.\d+)(?![\d.])", text)
    assert match is not None
    return match.group(1)


def excludes(pattern: str) -> bool:
    return pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


# --- compose ----------------------------------------------------------------------------------------------------------


def test_compose_has_every_part_of_the_production_shape() -> None:
    assert {"api", "worker", "worker-train", "worker-gpu", "migrate", "postgres", "valkey", "object-store"} <= set(
        SERVICES
    )


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_service_has_a_health_check_unless_it_runs_once(name: str) -> None:
    test = SERVICES[name].get("healthcheck", {}).get("test")
    assert name in ONE_SHOT or test[0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_image_is_pinned_to_a_version(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.match(r"\d+\.\d+", tag), f"{name} runs whatever {SERVICES[name]['image']} is today"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_service_waits_for_its_dependencies_to_be_of_use(name: str) -> None:
    conditions = {other: wanted["condition"] for other, wanted in SERVICES[name].get("depends_on", {}).items()}
    expected = {
        other: "service_completed_successfully" if other in ONE_SHOT else "service_healthy" for other in conditions
    }
    assert conditions == expected


@pytest.mark.parametrize("name", sorted(OURS - {"migrate"}))
def test_our_process_starts_after_the_migrations(name: str) -> None:
    assert "migrate" in SERVICES[name]["depends_on"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_process_gets_only_variables_that_are_settings(name: str) -> None:
    known = {f"METAGRAFT_{field.upper()}" for field in Settings.model_fields}
    assert set(SERVICES[name]["environment"]) <= known


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_process_uses_no_embedded_part(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["METAGRAFT_DATABASE_URL"].startswith("postgresql+psycopg://")
    assert environment["METAGRAFT_BROKER_URL"].startswith("redis://")
    assert environment["METAGRAFT_STORAGE_URL"].startswith("s3://")


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_process_gains_no_privileges(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]


def test_every_queue_has_a_worker_without_a_gpu() -> None:
    always = [SERVICES[name] for name in OURS if name.startswith("worker") and "profiles" not in SERVICES[name]]
    queues = {queue for worker in always for queue in worker["environment"]["METAGRAFT_WORKER_QUEUES"].split(",")}
    assert queues == set(Settings.model_fields["worker_queues"].default.split(","))


def test_gpu_worker_is_opt_in_and_reserves_a_device() -> None:
    worker = SERVICES["worker-gpu"]
    devices = worker["deploy"]["resources"]["reservations"]["devices"]
    assert worker["profiles"] == ["gpu"]
    assert worker["build"]["args"]["TORCH_VARIANT"] == worker["environment"]["METAGRAFT_DEVICE"] == "cuda"
    assert devices[0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_secret_comes_from_the_callers_environment(name: str) -> None:
    secrets = {key: value for key, value in SERVICES[name].get("environment", {}).items() if SECRET.search(key)}
    assert all(REQUIRED_VARIABLE.fullmatch(value) for value in secrets.values())


def test_no_url_holds_a_written_out_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    passwords = re.findall(r"://[^\s:/@]*:(\$\{[^}]*\}|[^\s@/]+)@", text)
    assert passwords
    assert all(REQUIRED_VARIABLE.fullmatch(password) for password in passwords)


def test_broker_writes_its_messages_down_and_evicts_none() -> None:
    command = SERVICES["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "everysec"
    assert options["--maxmemory-policy"] == "noeviction"


def test_every_volume_is_declared_and_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_worker_is_given_longer_to_stop_than_it_needs_to_drain() -> None:
    grace = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > Settings.model_fields["drain_seconds"].default


# --- Dockerfile -------------------------------------------------------------------------------------------------------


def test_image_runs_as_a_user_without_rights() -> None:
    users = [arguments for name, arguments in last_stage() if name == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_image_installs_torch_before_everything_else() -> None:
    first = min(i for i, (_, arguments) in enumerate(dockerfile()) if "pip install" in arguments)
    assert position(r"pip install .*torch==") == first < position(r"--constraint requirements\.lock")


def test_image_installs_the_locks_torch() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert torch_version(dockerfile()[position(r"pip install .*torch==")][1]) == torch_version(lock)


def test_image_installs_the_encoders_without_what_they_name() -> None:
    _, command = dockerfile()[position(r"> encoders\.txt")]
    assert "--no-deps --requirement encoders.txt" in command


def test_torch_index_has_no_default() -> None:
    assert ("ARG", 'TORCH_INDEX_URL=""') in dockerfile()


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_each_variant_has_a_base(variant: str) -> None:
    stages = {arguments.split(" AS ")[-1] for name, arguments in dockerfile() if name == "FROM"}
    assert f"base-{variant}" in stages
    assert last_stage()[0] == ("FROM", "base-${TORCH_VARIANT} AS runtime")


def test_image_has_a_health_check_without_curl() -> None:
    checks = [arguments for name, arguments in last_stage() if name == "HEALTHCHECK"]
    assert len(checks) == 1
    assert "urllib.request" in checks[0]
    assert "/healthz" in checks[0]


def test_image_is_given_every_package_and_nothing_secret() -> None:
    copied = {arguments.split()[0] for name, arguments in dockerfile() if name == "COPY"}
    assert {"learning", "app", "worker", "migrations"} <= copied
    assert excludes("*")
    assert excludes("**/.env")


# --- README -----------------------------------------------------------------------------------------------------------


def test_readme_lists_every_setting_with_its_default() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `METAGRAFT_(\w+)` \| (?:`([^`]*)`|empty) \|", text, flags=re.MULTILINE))
    expected = {name.upper(): str(field.default) for name, field in Settings.model_fields.items()}
    assert documented == expected
