#!/usr/bin/env bash
# Installs the agent or the coordinator on this Linux machine as a hardened systemd service.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/systemd/install.sh agent|coordinator [--user] [--gpu] [--no-start] [--dry-run]
       deploy/systemd/install.sh agent|coordinator --uninstall [--user] [--dry-run]

Makes the virtual environment (llama.cpp is compiled for this processor the first time), a
configuration to edit if there is none, and the service; an update is the same command again. As
root it installs under /opt/tidegate and /etc/tidegate for a system user `tidegate`; with --user
under ~/.local/share and ~/.config, for the agent only.

  --gpu         the agent may use the GPU; set CMAKE_ARGS=-DGGML_CUDA=on as well for CUDA
  --no-start    only enable the service
  --dry-run     print the commands and run none
  --uninstall   remove service and virtual environment; books and configuration stay
TEXT
}

fail() {
  echo "install: $1" >&2
  exit "${2:-1}"
}

role='' user=0 gpu=0 start=1 dry=0 remove=0
for argument in "$@"; do
  case "$argument" in
    agent | coordinator)
      [[ -z "$role" ]] || fail "name either agent or coordinator, not both" 2
      role=$argument
      ;;
    --user) user=1 ;;
    --gpu) gpu=1 ;;
    --no-start) start=0 ;;
    --dry-run) dry=1 ;;
    --uninstall) remove=1 ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "unknown argument '$argument'; see --help" 2 ;;
  esac
done
[[ -n "$role" ]] || {
  usage >&2
  exit 2
}
((!user)) || [[ "$role" == agent ]] || fail "--user is for the agent only" 2
((!gpu)) || [[ "$role" == agent && "$user" == 0 ]] || fail "--gpu is for the system-wide agent" 2
[[ "$(uname -s)" == Linux ]] || fail "systemd is for Linux; on macOS use deploy/launchd/install.sh"
((user || dry)) || ((EUID == 0)) || fail "run it as root, or with --user for yourself alone"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
unit="tidegate-$role.service"
if ((user)); then
  prefix="${XDG_DATA_HOME:-$HOME/.local/share}/tidegate"
  data="$prefix/state" as_owner=''
  etc="${XDG_CONFIG_HOME:-$HOME/.config}/tidegate"
  units="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user"
  source_unit="$root/deploy/systemd/tidegate-$role.user.service"
  control=(systemctl --user)
else
  prefix=/opt/tidegate etc=/etc/tidegate units=/etc/systemd/system
  data="/var/lib/tidegate-$role" as_owner='sudo -u tidegate '
  source_unit="$root/deploy/systemd/$unit"
  control=(systemctl)
fi
venv="$prefix/venv" config="$etc/$role.toml"
profile=$([[ "$role" == agent ]] && echo edge || echo coordinator)
other=$([[ "$role" == agent ]] && echo coordinator || echo agent)

run() {
  if ((dry)); then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

write_example() { # the configuration, unless there is one: it is the operator's
  if [[ -e "$config" ]]; then
    echo "Keeping $config"
  elif ((dry)); then
    echo "$venv/bin/tidegate-$role example > $config"
  else
    # With the service's own places: a command in a shell must see the same books.
    state=$([[ "$role" == agent ]] && echo "$data" || echo "$data/state")
    "$venv/bin/tidegate-$role" example | sed \
      -e "s|^state_dir = \"[^\"]*\"|state_dir = \"$state\"|" \
      -e "s|\"sqlite:///tidegate.db\"|\"sqlite:///$data/tidegate.db\"|" \
      -e "s|/var/lib/tidegate/models|$data/models|" >"$config.new"
    mv "$config.new" "$config"
  fi
}

if ((remove)); then
  run "${control[@]}" disable --now "$unit" || true
  run rm -rf "$units/$unit" "$units/$unit.d"
  # One environment serves both.
  [[ -e "$units/tidegate-$other.service" ]] || run rm -rf "$venv"
  run "${control[@]}" daemon-reload
  ((dry)) || echo "Removed. Books and configuration are where they were."
  exit 0
fi

if ((!user)) && ! getent passwd tidegate >/dev/null; then
  run useradd --system --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin tidegate
fi
run install -d -m 0755 "$prefix" "$units"
run install -d -m 0750 "$etc"
run "${PYTHON:-python3}" "$root/deploy/dev/bootstrap.py" "$profile" "$venv"
write_example
((user)) || run chown -R root:tidegate "$etc"
run install -m 0644 "$source_unit" "$units/$unit"
if ((gpu)); then
  run install -D -m 0644 "$root/deploy/systemd/tidegate-agent-gpu.conf" "$units/$unit.d/gpu.conf"
fi
run "${control[@]}" daemon-reload
run "${control[@]}" enable "$unit"

verb=$([[ "$role" == agent ]] && echo run || echo serve)
if ! run "$venv/bin/tidegate-$role" "$verb" --config "$config" --check; then
  echo "Edit $config, then: ${control[*]} restart $unit"
elif ((start)); then
  run "${control[@]}" restart "$unit"
  ((dry)) || echo "Running. Its log: journalctl ${control[1]:-} -u $unit"
fi
((dry)) && exit 0
command="$as_owner$venv/bin/tidegate-$role"
if [[ "$role" == coordinator ]]; then
  echo "The first operator's token, while it is stopped: $command token create --config $config"
else
  echo "What it still wants: $command doctor --config $config"
fi
((!user)) || echo "To keep it up after you log out: loginctl enable-linger"
