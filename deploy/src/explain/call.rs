//! The story of a call: from its hold to the hold's one ending, and late usage behind it.

use modelfaucet_schema::event::{Event, StoredEvent};
use modelfaucet_schema::ids::{HoldId, ShardId};
use tokio_postgres::{Error, Transaction};

use super::at;
use super::story::Found;
use crate::reading::{self, Place, Wanted, between, last_before_moved};
use crate::reading::{Shard, near};

/// Positions that are read at first; then four times as many, and so on.
const FIRST_PAGE: i64 = 1_024;
const LARGEST_PAGE: i64 = 65_536;
/// How long behind its time the clock may find a hold, in milliseconds.
const CLOCK: i64 = 60_000;

/// The hold that an event is about.
pub(super) fn hold_of(event: &StoredEvent) -> Option<HoldId> {
    match event.decode().ok()?.event {
        Event::HoldPlaced(event) => Some(event.hold_id),
        Event::HoldCaptured(event) => Some(event.hold_id),
        Event::HoldReleased(event) => Some(event.hold_id),
        Event::HoldExpired(event) => Some(event.hold_id),
        Event::LateUsageCaptured(event) => Some(event.hold_id),
        Event::AttemptStarted(event) => Some(event.hold_id),
        Event::AttemptProgressed(event) => Some(event.hold_id),
        _ => None,
    }
}

/// The event at a place; of a call's event the whole call.
pub(super) async fn around(transaction: &Transaction<'_>, place: Place) -> Result<Option<Found>, Error> {
    let Some(event) = reading::event(transaction, place).await? else { return Ok(None) };
    let mut found = match hold_of(&event) {
        Some(hold) => of_hold(transaction, place.shard, hold, place.position.0).await?,
        None => Found::of("event", Vec::new()),
    };
    found.kind = "event";
    found.events.push(event);
    Ok(Some(found))
}

/// Everything that happened to a hold, of which one event is at `known`.
pub(super) async fn of_hold(
    transaction: &Transaction<'_>,
    shard: ShardId,
    hold: HoldId,
    known: i64,
) -> Result<Found, Error> {
    let mut found = Found::of("hold", Vec::new());
    let text = hold.to_string();
    let placed = placed(transaction, shard, hold, known).await?;
    let Some((placed, event)) = placed else {
        found.facts.push(("hold".to_owned(), format!("{hold}, whose beginning was not found")));
        return Ok(found);
    };
    found.facts.push(("hold".to_owned(), text.clone()));
    found.facts.push(("wallet".to_owned(), event.wallet_id.to_string()));
    found.facts.push(("app".to_owned(), event.call.app_id.to_string()));
    if let Some(session) = event.call.session_id {
        found.facts.push(("session".to_owned(), session.to_string()));
    }
    if let Some(feature) = &event.call.feature_key {
        found.facts.push(("feature".to_owned(), feature.clone()));
    }
    found.facts.push(("route".to_owned(), event.call.route.name().to_owned()));
    // The hold has ended by itself then, if by nobody else.
    let last = last_before_moved(transaction, shard, event.expires_at, CLOCK).await?;
    let wanted = Wanted::mention(Some(placed.stream.clone()), &text);
    let (mut from, mut page, mut expired) = (placed.position.0 + 1, FIRST_PAGE, None);
    found.events.push(placed);
    'reading: while from <= last {
        let to = last.min(from + page - 1);
        for event in between(transaction, shard, (from, to), &wanted).await? {
            let (name, position) = (event.name.clone(), event.position.0);
            found.events.push(event);
            match name.as_str() {
                "HoldCaptured" | "HoldReleased" | "LateUsageCaptured" => break 'reading,
                "HoldExpired" => expired = Some(position),
                _ => {}
            }
        }
        if expired.is_some() {
            break;
        }
        (from, page) = (to + 1, (page * 4).min(LARGEST_PAGE));
    }
    if let Some(position) = expired {
        // Usage may come long after; the books know.
        let sql = include_str!("sql/late_usage.sql");
        if let Some(row) = transaction.query_opt(sql, &[&shard.0, &event.wallet_id.0, &position, &hold.0]).await? {
            found.events.extend(at(transaction, &[(shard, row.get(0))]).await?);
        }
    }
    Ok(found)
}

/// Where a hold was placed. Its id was made a moment before.
async fn placed(
    transaction: &Transaction<'_>,
    shard: ShardId,
    hold: HoldId,
    known: i64,
) -> Result<Option<(StoredEvent, Box<modelfaucet_schema::event::HoldPlaced>)>, Error> {
    let as_placed = |event: StoredEvent| match event.decode().ok()?.event {
        Event::HoldPlaced(placed) if placed.hold_id == hold => Some((event, Box::new(placed))),
        _ => None,
    };
    let place = Place { shard, position: modelfaucet_schema::ids::Position(known) };
    if let Some(found) = reading::event(transaction, place).await?.and_then(as_placed) {
        return Ok(Some(found));
    }
    let Some(made_at) = hold.made_at() else { return Ok(None) };
    let wanted = Wanted { types: Some(vec!["HoldPlaced".to_owned()]), ..Wanted::mention(None, &hold.to_string()) };
    let shards: Vec<Shard> =
        reading::shards(transaction).await?.into_iter().filter(|known| known.id == shard).collect();
    let near = near(transaction, &shards, made_at, &wanted).await?;
    Ok(near.into_iter().find_map(as_placed))
}
