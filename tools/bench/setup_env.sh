#!/bin/sh
# The peers' own environment: tools/bench/setup_env.sh FOLDER [--llama-bench]
#
# Peers come from the package index. llama-cpp-python has no wheels there and is compiled for this processor (10 to 20
# minutes on two cores). With --llama-bench the C program of the same sources is compiled as well (another 15) and lies
# in FOLDER/bin/llama-bench afterwards. Needs a C++ compiler and cmake.
set -eu

folder=${1:?"usage: setup_env.sh FOLDER [--llama-bench]"}
llama_version=0.3.36
python=${PYTHON:-python3}

"$python" -m venv "$folder"
"$folder/bin/pip" install --quiet --upgrade pip
"$folder/bin/pip" install --quiet \
    onnxruntime-genai==0.18.0 onnx onnx-ir gguf "llama-cpp-python==$llama_version" \
    torch transformers safetensors

if [ "${2:-}" = "--llama-bench" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    "$folder/bin/pip" download --quiet --no-deps --no-binary :all: --dest "$work" "llama-cpp-python==$llama_version"
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
    cmake -S "$work"/llama_cpp_python-*/vendor/llama.cpp -B "$work/build" \
        -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TOOLS=ON
    cmake --build "$work/build" --target llama-bench -j "$(nproc)"
    cp "$work/build/bin/llama-bench" "$folder/bin/llama-bench"
fi
