//! Incidents that are over.

use modelfaucet_schema::event::{FreezeScope, IncidentClosed};
use modelfaucet_schema::ids::{BatchId, LogId};
use modelfaucet_schema::log::Head;
use modelfaucet_schema::staff::StaffRole;

use super::*;
use crate::writer::core::{Core, Step as Plan, Submission};

/// A closing of INC-12 over these positions, with the report of this digit.
fn closing(first: i64, last: i64, report: char, supersedes: Option<i64>) -> IncidentClosed {
    IncidentClosed {
        name: "INC-12".into(),
        first: Position(first),
        last: Position(last),
        digest: report.to_string().repeat(64),
        bytes: 5_123,
        reason: "charged twice; repaired".into(),
        supersedes: supersedes.map(Position),
    }
}

pub(super) fn close(first: i64, last: i64, report: char, supersedes: Option<i64>) -> Command {
    Command::CloseIncident(Box::new(closing(first, last, report, supersedes)))
}

fn staff(role: StaffRole, token_id: TokenId) -> Step {
    let issue = Command::IssueStaffToken {
        token_id,
        name: "Grace".into(),
        role,
        token_hash: TokenHash::of_text(&token_id.to_string()),
        token_prefix: "mf_staff_".into(),
        expires_at: None,
    };
    by(Caller::Admin, issue)
}

#[test]
fn an_incident_is_about_positions_that_are_in_the_log() {
    let head = given([]).position.0;
    for first in -1..=head + 2 {
        for last in -1..=head + 2 {
            let then = given([]).when(close(first, last, 'a', None));
            if first < 1 || last < first {
                then.then_refused_as(&Rejection::InvalidRange);
            } else if last > head {
                then.then_refused_as(&Rejection::RangeBeyondLog { head: Position(head) });
            } else {
                let then = then.then(["IncidentClosed"]);
                assert_eq!(then.event(), &closing(first, last, 'a', None).into(), "the event says what was asked for");
            }
        }
    }
    for last in [i64::MIN, i64::MAX] {
        assert!(given([]).when(close(i64::MIN, last, 'a', None)).verdict.is_err());
        assert!(given([]).when(close(i64::MAX, last, 'a', None)).verdict.is_err());
    }
}

#[test]
fn one_closing_of_an_incident_counts_and_another_one_names_it() {
    let never = Rejection::IncidentNotFound;
    given([]).when(close(1, 2, 'a', Some(1))).then_refused_as(&never);
    let world = given([close(1, 2, 'a', None).into()]);
    let first = world.position;
    let closed = |position| Rejection::IncidentClosed { position };
    // The very same, another report, and a guess are no other closing.
    let world = world.when(close(1, 2, 'a', None)).then_refused_as(&closed(first));
    let world = world.when(close(1, 2, 'b', None)).then_refused_as(&closed(first));
    let world = world.when(close(1, 2, 'b', Some(first.0 - 1))).then_refused_as(&closed(first));
    let world = world.when(close(1, 2, 'b', Some(first.0))).then(["IncidentClosed"]).next();
    let second = world.position;
    let world = world.when(close(1, 2, 'c', Some(first.0))).then_refused_as(&closed(second));
    // The first report may have been right after all.
    let world = world.when(close(1, 3, 'a', Some(second.0))).then(["IncidentClosed"]).next();
    // Another incident has nothing to do with it.
    let other = IncidentClosed { name: "INC-13".into(), ..closing(1, 2, 'a', None) };
    world.when(Command::CloseIncident(Box::new(other))).then(["IncidentClosed"]);
}

#[test]
fn operators_and_administrators_close_incidents_and_nobody_else() {
    let token = TokenId(Uuid::from_u128(0x73));
    for role in [StaffRole::Operator, StaffRole::Admin] {
        given([staff(role, token)])
            .when(by(Caller::Staff(role, token), close(1, 2, 'a', None)))
            .then(["IncidentClosed"]);
    }
    let auditor = Caller::Staff(StaffRole::Auditor, token);
    let world = given([staff(StaffRole::Auditor, token)]);
    let mut world = world.when(by(auditor, close(1, 2, 'a', None))).then_refused_as(&Rejection::Forbidden);
    // Who may not, does not learn whether it is closed or how long the log is.
    for caller in [Caller::Developer(DEVELOPER, TOKEN), Caller::Session(SESSION), Caller::Public, Caller::Stripe] {
        for command in [close(1, 2, 'a', None), close(1, i64::MAX, 'a', None), close(1, 2, 'a', Some(1))] {
            world = world.when(by(caller, command)).then_refused_as(&Rejection::Forbidden);
        }
    }
}

#[test]
fn an_incident_is_closed_before_the_thaw_whatever_is_frozen() {
    let frozen = given([Command::Freeze { scope: FreezeScope::Everything, reason: "INC-12".into() }.into()]);
    let at = frozen.position.0;
    let then = frozen.when(close(1, at, 'a', None)).then(["IncidentClosed"]);
    assert!(then.event().entry().is_none() && then.event().balance().is_none(), "no money moves");
    then.next().when(granted("1")).then_refused("frozen");
}

/// The end of the log is that of the moment of the decision: what the same append records before is in it.
#[test]
fn what_is_recorded_by_the_same_append_is_in_the_log() {
    let world = given([]);
    let end = world.position.0;
    let submission = |reply, command| Submission {
        caller: Caller::Admin,
        command,
        request_id: "test".into(),
        key: None,
        give_up_at: world.now.plus(Duration::from_secs(1)),
        reply: Some(reply),
    };
    let grant = || Command::GrantTestCredit { wallet_id: WALLET, amount: usd("1") };
    let head = Head { position: world.position, ..Head::genesis(LogId(Uuid::nil()), ShardId(0)) };
    let mut core = Core::new(ShardId(0), LogId(Uuid::nil()), world.state.clone(), head);
    let mut queue = [
        submission(1, close(1, end + 1, 'a', None)),
        submission(2, grant()),
        submission(3, close(1, end + 1, 'a', None)),
        submission(4, close(1, end + 1, 'b', Some(end + 2))),
    ]
    .into();
    let step = core.plan(&mut queue, world.now, BatchId(Uuid::nil()), &mut Vec::new());
    assert!(matches!(step, Plan::Append(batch) if batch.events().len() == 3));
    let (replies, events) = core.appended();
    let [(1, Err(refusal)), (2, Ok(_)), (3, Ok(_)), (4, Ok(_))] = replies.as_slice() else { panic!("{replies:?}") };
    assert_eq!(refusal, &Rejection::RangeBeyondLog { head: Position(end) });
    assert_eq!(events.last().map(|recorded| recorded.position), Some(Position(end + 3)));
}
