# Sourced by the setup scripts: one virtual environment, made once.

# make_venv FOLDER PINS [MORE_PINS]: the first pins are installed by themselves, so that no other package pulls in other
# versions of them. PYTHON is the interpreter. A folder that holds these pins already is left as it is.
make_venv() {
  local folder="$1" first="$2" more="${3:-}"
  local wanted="$first${more:+ $more}"
  if [[ -f "$folder/.pins" && "$(cat "$folder/.pins")" == "$wanted" ]]; then
    echo "$folder is ready."
    return
  fi
  echo "Creating $folder with $wanted ..."
  rm -rf "$folder"
  "${PYTHON:-python3.11}" -m venv "$folder"
  # shellcheck disable=SC2086  # the pins are words
  "$folder/bin/pip" install -q $first
  if [[ -n "$more" ]]; then
    # shellcheck disable=SC2086
    "$folder/bin/pip" install -q $wanted
  fi
  echo "$wanted" > "$folder/.pins"
}
