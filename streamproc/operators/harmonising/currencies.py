"""ISO 4217: which currencies there are, and how many digits their minor unit has."""

from __future__ import annotations

from typing import Final

from streamproc.errors import DefinitionError, did_you_mean

# The active codes of ISO 4217 with a minor unit (as amended to 2025), then those that the ECB once quoted.
_CODES: Final = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW
CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG
HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK
MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR
SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW
UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
ANG CYP EEK HRK LTL LVL MTL ROL SIT SKK TRL
"""
_OTHER_DIGITS: Final = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF TRL UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

MINOR_DIGITS: Final = dict.fromkeys(_CODES.split(), 2) | {
    code: digits for digits, codes in _OTHER_DIGITS.items() for code in codes.split()
}
"""Digits of the minor unit by currency code: 2 for EUR (cents), 0 for JPY, 3 for KWD."""


def require_currency(code: str, what: str) -> str:
    """The code, or DefinitionError."""
    if code not in MINOR_DIGITS:
        raise DefinitionError(
            f"{what}: '{code}' is no currency of ISO 4217", hint=did_you_mean(code, MINOR_DIGITS).split(" There")[0]
        )
    return code
