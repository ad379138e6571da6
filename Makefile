.DEFAULT_GOAL := help
.PHONY: help test lint

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' Makefile

test: ## Run the tests
	go test ./...

lint: ## Check format and suspicious code
	@out=$$(gofmt -l api cmd identity internal ledger policy tenantstore); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	go vet ./...
