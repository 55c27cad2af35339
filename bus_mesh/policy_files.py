"""Policy as people keep it: YAML files, and directories of them."""

from pathlib import Path

from bus_mesh.config import read_text, unreadable
from bus_mesh.policy.bundle import PolicySet
from bus_mesh.policy.load import PolicyError, parse, unenforced
from bus_mesh.policy.models import PolicyDocument
from bus_mesh.policy.problems import DocumentError, Problem
from bus_mesh.policy.yaml_lines import texts

__all__ = ["read_policy", "read_policy_dir", "read_texts"]


def read_policy_dir(path: Path) -> PolicySet:
    """Return the policy in a directory's *.yaml and *.yml files, in the order of their names; raise PolicyError."""
    documents, later = read_policy(path)
    if later:
        raise PolicyError(later)
    return PolicySet.of(documents)


def read_policy(path: Path) -> tuple[list[PolicyDocument], list[Problem]]:
    """Return the documents of a policy file, or of a directory's, and what of them no agent enforces yet.

    Raises PolicyError for all that is wrong in any of them, or between them.
    """
    documents: list[PolicyDocument] = []
    problems: list[Problem] = []
    later: list[Problem] = []
    for file in [path] if path.is_file() else _policy_files(path):
        try:
            text = read_text(file)
            documents += parse(text, str(file), whole=True)
            later += unenforced(text, str(file))
        except DocumentError as error:
            problems += error.problems
    if problems:
        raise PolicyError([*problems, *later])
    PolicySet.of(documents)  # two documents of one name are refused here
    return documents, later


def _policy_files(path: Path) -> list[Path]:
    try:
        return sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and file.name[0] != ".")
    except OSError as error:
        raise PolicyError([unreadable(path, error, "make it, or set policy_dir to where policy is")]) from None


def read_texts(path: Path) -> dict[str, str]:
    """Return the documents of a policy file, or of a directory's, each as its own text: `kind/name` to YAML.

    Raises PolicyError for all that is wrong in any of them, or between them. What no agent enforces yet is let through:
    the policy agent refuses it.
    """
    read_policy(path)
    found: dict[str, str] = {}
    for file in [path] if path.is_file() else _policy_files(path):
        for text in texts(read_text(file)):
            for document in parse(text, str(file), whole=True):
                found[f"{document.kind}/{document.name}"] = text
    return found
