#!/usr/bin/env bash
# Installs the agent for the user who runs this on macOS. An update is the same command again.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/launchd/install.sh [--dry-run] [--uninstall]

Makes the virtual environment (llama.cpp is compiled with Metal the first time), a configuration to
edit if there is none, and a launch agent that starts with the user's session. API keys belong into
files that the configuration refers to ("file:PATH"): launchd shows its variables to everybody.

  --dry-run     print the commands and run none
  --uninstall   stop it and remove the virtual environment; books and configuration stay
TEXT
}

dry=0 remove=0
for argument in "$@"; do
  case "$argument" in
    --dry-run) dry=1 ;;
    --uninstall) remove=1 ;;
    -h | --help)
      usage
      exit 0
      ;;
    *)
      echo "install: unknown argument '$argument'; see --help" >&2
      exit 2
      ;;
  esac
done
if ((!dry)) && [[ "$(uname -s)" != Darwin ]]; then
  echo "install: launchd is for macOS; on Linux use deploy/systemd/install.sh" >&2
  exit 1
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
home="$HOME/Library/Application Support/Tidegate"
plist="$HOME/Library/LaunchAgents/com.tidegate.agent.plist"
domain="gui/$(id -u)"

run() {
  if ((dry)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

to_file() { # TARGET COMMAND...: the command's output, whole or not at all
  local target=$1
  shift
  if ((dry)); then
    printf '%q ' "$@"
    printf '> %q\n' "$target"
  else
    "$@" >"$target.new"
    mv "$target.new" "$target"
  fi
}

run launchctl bootout "$domain/com.tidegate.agent" 2>/dev/null || true # it may not be loaded
if ((remove)); then
  run rm -rf "$plist" "$home/venv"
  echo "Removed. Books and configuration are in $home"
  exit 0
fi

run mkdir -p "$home/state" "$HOME/Library/LaunchAgents" "$HOME/Library/Logs"
run chmod 700 "$home" "$home/state"
run "${PYTHON:-python3}" "$root/deploy/dev/bootstrap.py" edge "$home/venv"
if [[ -e "$home/agent.toml" ]]; then
  echo "Keeping $home/agent.toml"
else
  # With the service's own places: a command in a shell must see the same books.
  to_file "$home/agent.toml" "$home/venv/bin/tidegate-agent" example
  run sed -i '' -e "s|^state_dir = \"[^\"]*\"|state_dir = \"$home/state\"|" \
    -e "s|/var/lib/tidegate/models|$home/state/models|" "$home/agent.toml"
fi
to_file "$plist" sed "s|@HOME@|$HOME|g" "$root/deploy/launchd/com.tidegate.agent.plist"
if run "$home/venv/bin/tidegate-agent" run --config "$home/agent.toml" --check; then
  run launchctl bootstrap "$domain" "$plist"
  echo "Running. Its log: $HOME/Library/Logs/tidegate-agent.log"
else
  echo "Edit $home/agent.toml, then run this again."
fi
