//! Forms of URLs: schemes, ports, users, and texts that are read differently by different readers.

use proptest::prelude::*;

use super::*;

#[test]
fn only_plain_https_urls_are_taken() {
    let many: &[(&str, Refused)] = &[
        ("http://api.example.com/", Refused::Scheme),
        ("ftp://api.example.com/", Refused::Scheme),
        ("file:///etc/passwd", Refused::Scheme),
        ("gopher://api.example.com/", Refused::Scheme),
        ("ws://api.example.com/", Refused::Scheme),
        ("javascript:alert(1)", Refused::Scheme),
        ("data:text/plain,x", Refused::Scheme),
        ("", Refused::Form),
        ("api.example.com", Refused::Form),
        ("//api.example.com/", Refused::Form),
        ("https://", Refused::Form),
        ("https:///api.example.com/", Refused::Form),
        ("https:////api.example.com/", Refused::Form),
        ("https:api.example.com", Refused::Form),
        ("https:/api.example.com", Refused::Form),
        ("https:\\\\evil.test", Refused::Form),
        ("https://good.com\\@evil.test/", Refused::Form),
        ("https://good.com@evil.test/", Refused::Form),
        ("https://user:pass@api.example.com/", Refused::Form),
        ("https://evil.test#@good.com", Refused::Form),
        ("https://api.example.com/#x", Refused::Form),
        ("https://api.example.com/a b", Refused::Form),
        (" https://api.example.com/", Refused::Form),
        ("https://api.example.com/\n", Refused::Form),
        ("https://ev\til.test/", Refused::Form),
        ("https://ev\r\nil.test/", Refused::Form),
        ("https://api.example.com/\u{0}", Refused::Form),
        ("https://api.example.com\u{2028}/", Refused::Form),
        ("https://1.2.3.256/", Refused::Form),
        ("https://4294967296/", Refused::Form),
        ("https://08.0.0.1/", Refused::Form),
        ("https://1.2.3.4.5/", Refused::Form),
        ("https://[fe80::1%25eth0]/", Refused::Form),
        ("https://[::1/", Refused::Form),
        ("https://127.0.0.1%00.evil/", Refused::Form),
        ("https://xn--/", Refused::Form),
        ("https://۱۲۷.0.0.1/", Refused::Form),
        ("https://api.example.com:65536/", Refused::Form),
        ("https://api.example.com:x/", Refused::Form),
        ("https://api.example.com:0/", Refused::Port(0)),
        ("https://api.example.com:80/", Refused::Port(80)),
        ("https://api.example.com:8443/", Refused::Port(8_443)),
        ("https://2130706433/", Refused::Literal),
        ("https://0x7f000001/", Refused::Literal),
        ("https://0177.0.0.1/", Refused::Literal),
        ("https://127.1/", Refused::Literal),
        ("https://0x7f.1/", Refused::Literal),
        ("https://１２７.０.０.１/", Refused::Literal),
        ("https://①②⑦.⓪.⓪.①/", Refused::Literal),
        ("https://127。0。0。1/", Refused::Literal),
        ("https://%31%32%37.0.0.1/", Refused::Literal),
        ("https://127.0.0.1./", Refused::Literal),
        ("https://0/", Refused::Literal),
        ("https://0x/", Refused::Literal),
        ("https://1.2.3/", Refused::Literal),
        ("https://[::]/", Refused::Literal),
        ("https://8.8.8.8/", Refused::Literal),
    ];
    for (text, refused) in many {
        assert_eq!(verdict(&strict(), text), Err(refused.clone()), "{text:?}");
    }
    assert_eq!(verdict(&strict(), &format!("https://api.example.com/{}", "a".repeat(2_048))), Err(Refused::Form));
    for text in [
        "https://api.example.com",
        "HTTPS://API.example.com/v1?x=1",
        "https://api.example.com:443/",
        "https://api.example.com/a%40b",
    ] {
        assert_eq!(verdict(&strict(), text), Ok(()), "{text}");
    }
    let more = Policy { ports: [8_443].into(), ..strict() };
    assert_eq!(verdict(&more, "https://api.example.com:8443/"), Ok(()));
    assert_eq!(verdict(&more, "https://api.example.com:8444/"), Err(Refused::Port(8_444)));
}

/// URLs that the parser made of something else, as redirects or code could.
#[test]
fn a_url_is_judged_whoever_made_it() {
    for (text, refused) in [
        ("https://user@api.example.com/", Refused::User),
        ("https://:pass@api.example.com/", Refused::User),
        ("https://api.example.com/#", Refused::Fragment),
        ("http://api.example.com/", Refused::Scheme),
        ("unix:/run/docker.sock", Refused::Scheme),
        ("https://localhost/", Refused::Name),
    ] {
        assert_eq!(strict().url(&Url::parse(text).unwrap()), Err(refused), "{text}");
    }
}

#[test]
fn refusals_tell_nothing_about_the_inside() {
    let all = [
        Refused::Form,
        Refused::Scheme,
        Refused::User,
        Refused::Fragment,
        Refused::Port(1),
        Refused::Literal,
        Refused::Name,
        Refused::Address,
        Refused::NotFound("x".into()),
    ];
    let reasons: BTreeSet<_> = all.iter().map(Refused::reason).collect();
    assert_eq!(reasons.len(), all.len());
    assert!(all.iter().all(|refused| !refused.to_string().contains("127.")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    /// Whatever is typed: what is let through has a public host in the end.
    #[test]
    fn nothing_gets_through_that_is_not_public(text in r"https://[\PC]{1,40}") {
        if let Ok(url) = with_addresses().url_text(&text) {
            match url.host().unwrap() {
                Host::Domain(name) => prop_assert!(name::is_public(name) && name.contains('.')),
                Host::Ipv4(address) => prop_assert!(is_public(address.into())),
                Host::Ipv6(address) => prop_assert!(is_public(address.into())),
            }
            prop_assert!(url.username().is_empty() && url.port().is_none() && url.scheme() == "https");
        }
    }
}
