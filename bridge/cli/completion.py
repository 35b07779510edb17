"""
Owns completion scripts, made from the argument parser itself, so that they know
every command and option that there is.

Refuses: to complete route names, which would ask a policy at each key stroke.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """
    The script that C{eval "$(bgctl completion SHELL)"} wants.
    """
    return _SCRIPTS[shell](parser)


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, list[str]]]:
    """
    Each command with its help and the words that may follow it.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield name, helps.get(name, ""), _words(command)


def _words(parser: argparse.ArgumentParser) -> list[str]:
    words: list[str] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if action.choices and not isinstance(action, argparse._SubParsersAction):
            words += [str(choice) for choice in action.choices]
    return words


def _bash(parser: argparse.ArgumentParser) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(words)}" ;;' for name, _, words in _commands(parser))
    names = " ".join(name for name, _, _ in _commands(parser))
    return f"""\
_bgctl() {{
  local word words command=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case " {names} " in *" $word "*) command=$word; break ;; esac
  done
  case "$command" in
    "") words="{names} {" ".join(_words(parser))}" ;;
{cases}
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -F _bgctl bgctl
"""


def _zsh(parser: argparse.ArgumentParser) -> str:
    return "autoload -U +X bashcompinit && bashcompinit\n" + _bash(parser)


def _fish(parser: argparse.ArgumentParser) -> str:
    lines = ["complete -c bgctl -f"]
    for name, help, words in _commands(parser):
        said = help.replace("'", "\\'")
        lines.append(f"complete -c bgctl -n __fish_use_subcommand -a {name} -d '{said}'")
        for word in words:
            what = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c bgctl -n '__fish_seen_subcommand_from {name}' {what}")
    return "\n".join(lines) + "\n"


_SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
