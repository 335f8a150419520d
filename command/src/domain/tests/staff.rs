//! Who may do what of those who run the ledger.

use modelfaucet_schema::event::FreezeScope;
use modelfaucet_schema::staff::StaffRole;

use super::*;

const AUDITOR: TokenId = TokenId(Uuid::from_u128(0xe1));
const OPERATOR: TokenId = TokenId(Uuid::from_u128(0xe2));
const ADMIN: TokenId = TokenId(Uuid::from_u128(0xe3));

fn staff(role: StaffRole) -> Caller {
    let token = match role {
        StaffRole::Auditor => AUDITOR,
        StaffRole::Operator => OPERATOR,
        StaffRole::Admin => ADMIN,
    };
    Caller::Staff(role, token)
}

fn issued(token_id: TokenId, role: StaffRole, expires_at: Option<Timestamp>) -> Command {
    Command::IssueStaffToken {
        token_id,
        name: "Grace".into(),
        role,
        token_hash: TokenHash::of_text(&token_id.to_string()),
        token_prefix: "mf_staff_abcdefgh".into(),
        expires_at,
    }
}

/// The shop, and one token of each role.
fn given_staff() -> World {
    let tokens = [(AUDITOR, StaffRole::Auditor), (OPERATOR, StaffRole::Operator), (ADMIN, StaffRole::Admin)];
    given([]).and(tokens.map(|(token, role)| issued(token, role, None).into()))
}

fn freeze() -> Command {
    Command::Freeze { scope: FreezeScope::Usage, reason: "incident".into() }
}

/// Every kind of command, and the least role that may give it.
fn attempts() -> Vec<(Command, StaffRole)> {
    let credit = Command::GrantTestCredit { wallet_id: WALLET, amount: usd("1") };
    let change = Command::ChangeApp { public_app_id: "shop".into(), patch: super::super::AppPatch::default() };
    let developer = Command::RegisterDeveloper {
        developer_id: DeveloperId(Uuid::from_u128(0xd9)),
        name: "Eve".into(),
        email: "eve@example.com".into(),
    };
    vec![
        (freeze(), StaffRole::Operator),
        (Command::RevokeSession { session_id: SESSION }, StaffRole::Operator),
        (Command::RevokeDeveloperToken { token_id: TOKEN }, StaffRole::Operator),
        (credit, StaffRole::Admin),
        (change, StaffRole::Admin),
        (developer, StaffRole::Admin),
        (hold_of(HOLD, "0"), StaffRole::Admin),
        (Command::RevokeStaffToken { token_id: AUDITOR }, StaffRole::Admin),
    ]
}

#[test]
fn each_role_does_what_its_power_allows_and_nothing_else() {
    for (command, least) in attempts() {
        for role in [StaffRole::Auditor, StaffRole::Operator, StaffRole::Admin] {
            let own = command == Command::RevokeStaffToken { token_id: AUDITOR } && role == StaffRole::Auditor;
            let then = given_staff().when(by(staff(role), command.clone()));
            if role >= least || own {
                let refused = then.verdict.as_ref().err().map(Rejection::status);
                assert!(refused != Some(403), "{role} {command:?}: {:?}", then.verdict);
            } else {
                then.then_refused_as(&Rejection::Forbidden);
            }
        }
    }
}

#[test]
fn only_the_root_issues_staff_tokens() {
    let one_more = issued(TokenId(Uuid::from_u128(0xe4)), StaffRole::Auditor, None);
    for caller in [staff(StaffRole::Admin), staff(StaffRole::Operator), Caller::Developer(DEVELOPER, TOKEN)] {
        given_staff().when(by(caller, one_more.clone())).then_refused_as(&Rejection::RootOnly);
    }
    given_staff().when(by(Caller::Admin, one_more)).then(["StaffTokenIssued"]);
    given_staff().when(issued(AUDITOR, StaffRole::Admin, None)).then_refused_as(&Rejection::AlreadyExists);
    given_staff().when(issued(TOKEN, StaffRole::Admin, None)).then_refused_as(&Rejection::AlreadyExists);
}

#[test]
fn a_token_that_was_revoked_or_has_ended_does_nothing_any_more() {
    let operator = staff(StaffRole::Operator);
    given_staff()
        .and([Command::RevokeStaffToken { token_id: OPERATOR }.into()])
        .when(by(operator, freeze()))
        .then_refused_as(&Rejection::InvalidStaffToken);
    given_staff()
        .and([Command::RevokeStaffToken { token_id: OPERATOR }.into()])
        .when(Command::RevokeStaffToken { token_id: OPERATOR })
        .then_refused_as(&Rejection::TokenNotFound);
    let world = given([]);
    let end = world.now.plus(Duration::from_secs(60));
    world
        .and([issued(OPERATOR, StaffRole::Operator, Some(end)).into(), after_seconds(60)])
        .when(by(operator, freeze()))
        .then_refused_as(&Rejection::InvalidStaffToken);
}

#[test]
fn nobody_rises_above_the_role_of_the_token() {
    let risen = Caller::Staff(StaffRole::Admin, OPERATOR);
    given_staff()
        .when(by(risen, Command::GrantTestCredit { wallet_id: WALLET, amount: usd("1") }))
        .then_refused_as(&Rejection::InvalidStaffToken);
}

#[test]
fn two_administrators_are_two_actors() {
    let (one, other) = (staff(StaffRole::Admin).actor(), Caller::Staff(StaffRole::Admin, OPERATOR).actor());
    assert_ne!(one, other);
    assert_ne!(one, Caller::Admin.actor());
    assert_eq!(one.to_string(), format!("admin:{ADMIN}"));
    assert_eq!(one.to_string().parse::<modelfaucet_schema::event::Actor>().unwrap(), one);
}
