# Short names for ./gateway, which does the work and knows more: ./gateway help
.PHONY: help install build run dev test test-all check fmt lint clean env-check version
.DEFAULT_GOAL := help

help:
	@./gateway help
install:
	@./gateway version
build:
	@./gateway build
run:
	@./gateway
dev:
	@DEBUG=true LOG_LEVEL=debug ./gateway
test:
	@./gateway test
test-all:
	@./gateway test -m ""
check:
	@./gateway check
fmt:
	@./gateway fix
lint:
	@./gateway check
clean:
	@./gateway clean
env-check:
	@./gateway env-check
version:
	@./gateway version
