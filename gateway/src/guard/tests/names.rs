//! Names of the inside, and ten thousand that only look like it.

use super::*;

fn name(text: &str) -> Result<(), Refused> {
    verdict(&strict(), &format!("https://{text}/v1"))
}

#[test]
fn names_of_the_inside_are_refused() {
    for text in [
        "localhost",
        "LOCALHOST",
        "ⓛocalhost",
        "localhost.",
        "localhost%2e",
        "intranet",
        "kubernetes",
        "api.localhost",
        "printer.local",
        "printer.LOCAL.",
        "host.localdomain",
        "metadata.google.internal",
        "vault.internal",
        "wiki.intranet",
        "nas.lan",
        "router.home",
        "router.home.arpa",
        "git.corp",
        "redis.default.svc",
        "redis.default.svc.cluster.local",
        "host.docker.internal",
        "gateway.docker.internal",
        "metadata.goog",
        "metadata.azure.com",
        "metadata.tencentyun.com",
        "a..test",
        "-",
        "-a.test",
        "a-.test",
        "a_b.test",
        ".test",
        "a.test..",
        "example.c0m.1a.7",
    ] {
        assert!(matches!(name(text), Err(Refused::Name | Refused::Form)), "{text}: {:?}", name(text));
    }
    let long = |labels: usize| format!("{}com", "a123456789.".repeat(labels));
    assert_eq!((name(&long(22)), name(&long(23))), (Ok(()), Err(Refused::Name)));
    let label = |length: usize| format!("{}.com", "a".repeat(length));
    assert_eq!(name(&label(63)), Ok(()));
    assert!(name(&label(64)).is_err());
}

#[test]
fn names_that_only_look_like_the_inside_are_not_refused() {
    for text in [
        "fdic.gov",
        "fcbarcelona.com",
        "fc00.example.com",
        "10.example.com",
        "127.0.0.1.nip.example.com",
        "localhost.example.com",
        "my-localhost.com",
        "internal.example.com",
        "local.example.org",
        "notlocal.com",
        "thelan.com",
        "xn--bcher-kva.example",
        "bücher.example",
        "metadata.google.com",
        "home.com",
        "api.openai.com",
        "api.openai.com.",
        "EXAMPLE.com",
        "svc.io",
        "homearpa.com",
    ] {
        assert_eq!(name(text), Ok(()), "{text}");
    }
    let begin = [
        "",
        "fc",
        "fd",
        "fe80",
        "fec0",
        "ff02",
        "10-",
        "127-",
        "169-254-",
        "192-168-",
        "localhost-",
        "internal",
        "lan",
        "corp",
        "metadata",
        "home",
        "svc",
        "0x7f",
        "local",
        "intra",
    ];
    let middle = [
        "a",
        "dic",
        "barcelona",
        "bank",
        "cloud",
        "models",
        "ai",
        "api",
        "labs",
        "net",
        "x1",
        "zeta",
        "shop",
        "news",
        "data",
        "host",
        "edge",
        "mail",
        "docs",
        "go",
        "run",
        "io",
        "dev",
        "hub",
        "one",
    ];
    let end = [
        "com", "gov", "org", "net", "io", "ai", "dev", "de", "co.uk", "cloud", "example", "museum", "com.br", "info",
        "xn--p1ai", "eu", "us", "app", "biz", "jp",
    ];
    let mut names = 0;
    for begin in begin {
        for middle in middle {
            for end in end {
                let text = format!("{begin}{middle}.{end}");
                assert_eq!(name(&text), Ok(()), "{text}");
                names += 1;
            }
        }
    }
    assert!(names >= 10_000, "{names} names");
}
