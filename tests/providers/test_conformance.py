"""Every adapter through the conformance suite, against its simulator over real HTTP."""

from collections.abc import Callable

import pytest

from providers.conformance import ProviderConformance, UnderTest


class TestStripe(ProviderConformance):
    @pytest.fixture
    def psp(self, under_test: Callable[[str], UnderTest]) -> UnderTest:
        return under_test("stripe")


class TestAdyen(ProviderConformance):
    @pytest.fixture
    def psp(self, under_test: Callable[[str], UnderTest]) -> UnderTest:
        return under_test("adyen")


class TestNeutral(ProviderConformance):
    @pytest.fixture
    def psp(self, under_test: Callable[[str], UnderTest]) -> UnderTest:
        return under_test("neutral")
