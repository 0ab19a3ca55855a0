"""``alignment plan``: what it prints and returns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.commands.main import main
from alignment.planner.tables import gib
from alignment.trainers.registered import TRAINERS
from tests.unit.planner.jobs import SHAPE


@pytest.fixture
def path(tmp_path):
    """Return the path of arguments for a small model."""
    for name in ("policy", "reward"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(SHAPE))
    given = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": "policy",
        "reward_model_name_or_path": "reward",
        "output_dir": "output",
        "max_length": 64,
        "tensor_parallel_degree": 2,
        "sharding": "stage2",
        "offload_level": "freeze_model",
        "bf16": True,
        "fp16_opt_level": "O2",
    }
    path = tmp_path / "ppo.json"
    path.write_text(json.dumps(given))
    return str(path)


def status_of(verb, argv):
    """Return the exit status of the command."""
    with pytest.raises(SystemExit) as leaving:
        main([verb, *argv])
    return leaving.value.code or 0


def run(capsys, *argv):
    status = status_of("plan", [str(part) for part in argv])
    captured = capsys.readouterr()
    return status, " ".join(captured.out.split()), captured.err


def test_a_layout_that_fits_is_shown_with_others_that_do(path, capsys):
    status, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80)
    assert status == 0
    assert "TP2xSh4 stage2 on 8 devices of 80 GiB fits" in out
    for word in ("policy weights", "optimizer", "gradients", "activations", "key-value cache", "offloaded"):
        assert word in out
    assert "bfloat16, masters in float32" in out and "quickest ways that fit" in out


def test_small_sizes_are_numbers_and_not_zeros(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80)
    assert "million parameters" in out and re.search(r"policy \u2502 0\.\d\d\d \u2502 4 \u2502 64 \u2502 trained", out)
    assert not re.search(r"\u2502 (0\.0+|0) \u2502", out)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "-"), (3 * 2**20, "0.003"), (3 * 2**10, "0.000003"), (2**30, "1.00"), (8 * 2**20, "0.008"), (2**37, "128")],
)
def test_gib_have_as_many_places_as_show_something(size, shown):
    assert gib(size) == shown


def test_models_of_a_billion_parameters_are_counted_in_billions(path, capsys):
    policy = Path(path).parent / "policy"
    large = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
    (policy / "config.json").write_text(json.dumps({**SHAPE, **large, "num_hidden_layers": 32}))
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80)
    assert "billion parameters" in out, out
    assert re.search(r"policy \u2502 6\.4\d\d \u2502 32 \u2502 4,096 \u2502 trained", out)
    assert re.search(r"reward \u2502 0\.000\d \u2502 4 \u2502 64 \u2502 frozen", out)


@pytest.mark.parametrize(
    ("trainer", "models", "phases"),
    [
        ("sft", {"policy"}, "what update"),
        ("rm", {"reward"}, "what update"),
        ("dpo", {"policy", "reference"}, "what reference update"),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_an_offline_trainer_has_its_models_and_phases_alone(tmp_path, path, capsys, trainer, models, phases, told):
    given = {"train_datasets": "d", "model_name_or_path": "policy", "output_dir": "o", "max_length": 64}
    file = tmp_path / ("a.json" if told else f"{trainer}.json")
    file.write_text(json.dumps(given))
    option = ("--trainer", trainer) if told else ()
    status, out, error = run(capsys, file, "--gpus", 2, "--memory_gib", 8, *option)
    assert status == 0, error
    columns = " ".join(re.sub("[^a-z ]", "", out).split())
    assert f"{phases} policy weights" in columns or f"{phases} reward weights" in columns
    assert {role for role in ("policy", "critic", "reference", "reward") if f"{role} weights" in out} == models
    assert "key-value cache" not in out and "rollout" not in out


def test_whose_file_it_is_has_to_be_clear(tmp_path, path, capsys):
    (tmp_path / "a.json").write_text(json.dumps({"model_name_or_path": "policy"}))
    status, out, error = run(capsys, tmp_path / "a.json", "--gpus", 2, "--memory_gib", 8)
    offline = [name for name in TRAINERS if TRAINERS[name].model_keys == {"model_name_or_path"}]
    assert (status, out) == (2, "") and f"add --trainer NAME (allowed: {', '.join(offline)})" in error


def test_an_algorithm_without_critic_has_no_row_for_it(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80)
    assert "critic weights" in out and "reference weights" in out
    grpo = ("--rl_algorithm", "grpo", "--num_return_sequences", 2)
    status, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80, *grpo)
    assert status == 0 and "critic" not in out and "reference weights" in out
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80, *grpo, "--kl_loss_coeff", 0)
    assert "critic" not in out and "reference" not in out


def test_a_layout_that_does_not_fit_is_status_1_and_says_what_helps(path, capsys):
    status, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 1)
    assert status == 1
    assert "DOES NOT FIT" in out and "no layout of 8 devices fits in 1 GiB" in out


def test_a_number_of_devices_the_degrees_do_not_divide_gives_layouts_that_work(path, capsys):
    status, out, _ = run(capsys, path, "--gpus", 7, "--memory_gib", 80)
    assert status == 1
    assert "does not work on 7 devices: 7 process(es) cannot be arranged as tensor_parallel_degree=2" in out
    assert "Sh7 stage1" in out


def test_degrees_the_model_does_not_divide_by_are_named(path, capsys):
    status, out, _ = run(capsys, path, "--gpus", 9, "--memory_gib", 80, "--tensor_parallel_degree", 3)
    assert status == 1
    assert "tensor_parallel_degree=3 does not divide the model's 8 attention heads" in out


def test_degrees_that_no_number_of_devices_makes_work_suggest_no_number_of_devices(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80, "--tensor_parallel_degree", 3)
    wrong = "the layout asked for does not work on 8 devices: tensor_parallel_degree=3 does not divide the model's 8"
    assert wrong in out and "nproc_per_node" not in out


def test_what_helps_is_not_what_the_run_does_already(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 1)
    assert 'What helps: more devices, offload_level "freeze_model optimizer train_model", recompute, ' in out
    taken = ("--recompute", "true", "--offload_level", "freeze_model optimizer train_model")
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 1, *taken, "--per_device_train_batch_size", 1)
    assert "What helps: more devices, a smaller max_length, a smaller per_device_rollout_batch_size (if" in out


def test_host_memory_counts_on_a_cpu_and_stands_beside_the_device_on_a_gpu(path, capsys):
    _, gpu, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80)
    _, cpu, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80, "--on", "cpu")
    assert "total on the device" in gpu and "host memory: offloaded" in gpu
    assert "total on the device" not in cpu and "models (float32)" in cpu


def test_a_missing_model_is_one_line_and_status_2(path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    absent = ("--actor_model_name_or_path", "org/absent")
    status, out, error = run(capsys, path, "--gpus", 2, "--memory_gib", 80, *absent)
    assert (status, out) == (2, "")
    assert error.startswith("error: actor_model_name_or_path=org/absent: no config.json in")


@pytest.mark.parametrize("option", ["--gpus", "--memory_gib", "--per_node"])
def test_numbers_have_to_be_positive(path, option, capsys):
    given = {"--gpus": "2", "--memory_gib": "80", option: "0"}
    assert status_of("plan", [path, *(part for pair in given.items() for part in pair)]) == 2
    assert re.match(rf"error: argument {option}: expected a value >=? .*, got 0", capsys.readouterr().err)


def test_a_plan_needs_no_paddle(path):
    code = (
        "import sys; sys.modules['paddle'] = None\n"
        "from alignment.commands.main import main\nmain(['plan', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, path, "--gpus", "2", "--memory_gib", "80"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def test_the_time_of_an_iteration_is_given_by_phase_engine_and_gpu(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80)
    found = re.search(r"an iteration takes about (\S+) s on H100: (\S+) s of rollout \(eager engine\), (\S+) s", out)
    assert found and 0 < float(found[2]) <= float(found[1])
    assert "at 400 TFLOP/s" in out
    _, slower, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80, "--gpu_name", "a100")
    assert "s on A100:" in slower and "at 125 TFLOP/s" in slower
    _, given, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80, "--gpu_name", "a100", "--tflops", 77)
    assert "at 77 TFLOP/s" in given
    _, cpu, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80, "--on", "cpu")
    assert "in processes of a CPU:" in cpu and "(fused engine)" in cpu and "pinned" not in cpu


def test_pinned_host_memory_is_given_a_process_and_a_node(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80, "--per_node", 4)
    found = re.search(r"offload_level: (\S+) GiB of pinned host memory a process, (\S+) GiB for the 4 of a node", out)
    assert found and abs(float(found[2]) - 4 * float(found[1])) <= 0.02
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80, "--offload_level", "")
    assert "pinned" not in out


def test_ways_to_roll_out_and_batches_stand_beside_the_layouts(path, capsys):
    _, out, _ = run(capsys, path, "--gpus", 8, "--memory_gib", 80, "--best", 100)
    for word in ("as trained", "single", "TP4"):
        assert word in out
    # Eight rows for each of four processes, which is 32 an update.
    assert re.search(r"Sh8 stage2 .{1,40} 4 x 1", out) and re.search(r"TP8 .{1,40} 8 x 4", out)


ROLES = '{"policy": [0, 1], "critic": [2], "reference": [2], "reward": [2]}'


def test_a_placement_is_planned_by_rank_and_says_who_waits(path, capsys):
    status, out, said = run(capsys, path, "--gpus", 3, "--memory_gib", 80, "--placement", ROLES)
    assert status == 0, said
    assert "policy, rollout on ranks 0, 1 (TP2); critic, reference, reward on rank 2" in out
    assert "GiB in each of ranks 0, 1 (policy, rollout)" in out and "GiB in rank 2 (critic, reference, reward)" in out
    cells = ("(rollout|score|update)", "(ranks? [0-9, ]+)", "([a-z, -]+)", r"(\S+)", r"(\S+)")
    works = re.findall(" \u2502 ".join(cells), out)
    assert [work[:3] for work in works] == [
        ("rollout", "ranks 0, 1", "rollout"),
        ("rollout", "rank 2", "-"),
        ("score", "ranks 0, 1", "policy"),
        ("score", "rank 2", "reward, then reference, then critic"),
        ("update", "ranks 0, 1", "policy"),
        ("update", "rank 2", "critic"),
    ]
    assert works[1][4] == works[0][3] and works[0][4] == works[3][4] == "-"
    assert "the placement fits on devices of 80 GiB: rank" in out and "quickest" not in out
    status, out, _ = run(capsys, path, "--gpus", 2, "--memory_gib", 80, "--placement", "null")
    assert status == 0 and "quickest ways that fit" in out


def test_a_placement_with_a_rank_that_is_too_full_gets_one_message_with_one_that_fits(path, tmp_path, capsys):
    (tmp_path / "reward" / "config.json").write_text(json.dumps({**SHAPE, "hidden_size": 1024}))
    plain = ("--on", "cpu", "--tensor_parallel_degree", 1, "--sharding", "", "--offload_level", "")
    given = (path, *plain, "--gpus", 2, "--placement")
    together = '{"policy": [0], "critic": [1], "reference": [1], "reward": [1]}'
    # Rank 1 needs 0.510 GiB, without the reference 0.509, without the reward model 0.452.
    status, out, _ = run(capsys, *given, together, "--memory_gib", 0.48)
    full = re.search(r"DOES NOT FIT on devices of 0.48 GiB: rank 1 \(critic, reference, reward\) needs (\S+) GiB", out)
    assert status == 1 and full and out.count("DOES NOT FIT") == 1 and "rank 0 (policy, rollout) needs" not in out
    moved = '{"policy": [0], "critic": [1], "reference": [1], "reward": [0]}'
    assert out.endswith(f"this one fits, with --gpus 2: --placement '{moved}'"), out[-300:]
    status, out, _ = run(capsys, *given, moved, "--memory_gib", 0.48)
    assert status == 0 and "the placement fits" in out
    status, out, _ = run(capsys, *given, together, "--memory_gib", 0.1)
    assert status == 1 and "what helps: more devices" in out and "rank 0 (policy, rollout) needs" in out


def test_a_placement_for_other_processes_or_degrees_is_refused(path, capsys):
    status, out, said = run(capsys, path, "--gpus", 8, "--memory_gib", 80, "--placement", ROLES)
    assert status == 2 and "placement leaves rank 3, 4, 5, 6, 7 of 8 without a role" in said
    roles = (
        '{"policy": [0], "critic": {"ranks": [1, 2, 3], "tensor_parallel_degree": 3}, "reference": [0], "reward": [0]}'
    )
    status, out, _ = run(capsys, path, "--gpus", 4, "--memory_gib", 80, "--placement", roles)
    assert status == 1 and "the placement does not work: critic on ranks 1, 2, 3: tensor_parallel_degree=3" in out
